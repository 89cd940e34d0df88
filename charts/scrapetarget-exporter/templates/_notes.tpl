{{/* "true" if a label selector selects: a dict of `selector` and `labels`. */}}
{{- define "scrapetarget-exporter.selects" -}}
{{- $labels := .labels }}
{{- $fits := true }}
{{- range $key, $value := .selector.matchLabels }}
{{- if not (and (hasKey $labels $key) (eq (get $labels $key) $value)) }}{{ $fits = false }}{{ end }}
{{- end }}
{{- range .selector.matchExpressions }}
{{- $there := hasKey $labels .key }}
{{- $among := and $there (has (get $labels .key) (.values | default list)) }}
{{- $holds := get (dict "In" $among "NotIn" (not $among) "Exists" $there "DoesNotExist" (not $there)) .operator }}
{{- if not $holds }}{{ $fits = false }}{{ end }}
{{- end }}
{{- if $fits }}true{{ end }}
{{- end }}

{{/* The directory in which a Prometheus without the Operator has the files that it needs to connect to the exporter, as the notes show. */}}
{{- define "scrapetarget-exporter.plainPrometheusFolder" -}}
/etc/prometheus/{{ include "scrapetarget-exporter.fullname" . }}
{{- end }}

{{/* What a client needs, as a list of words: ca, certificate, password. */}}
{{- define "scrapetarget-exporter.plainPrometheusNeeds" -}}
{{- $web := .Values.webConfig }}
{{- $config := $web.config | default dict }}
{{- $needs := list }}
{{- if eq (include "scrapetarget-exporter.discoveryScheme" .) "https" }}
{{- $needs = append $needs "ca" }}
{{- end }}
{{- if include "scrapetarget-exporter.authenticated" . }}
{{- $wanted := dig "tls_server_config" "client_auth_type" "" $config }}
{{- if has $wanted (list "RequireAnyClientCert" "RequireAndVerifyClientCert") }}
{{- $needs = append $needs "certificate" }}
{{- end }}
{{- /* The content of an existing Secret is not known: usually it configures users. */}}
{{- if or $web.existingSecret $config.basic_auth_users (not (has "certificate" $needs)) }}
{{- $needs = append $needs "password" }}
{{- end }}
{{- end }}
{{- toYaml $needs }}
{{- end }}

{{/* The lines with which a Prometheus without the Operator connects to the exporter, both for scrapes and for discovery. */}}
{{- define "scrapetarget-exporter.plainPrometheusAccess" -}}
{{- $folder := include "scrapetarget-exporter.plainPrometheusFolder" . }}
{{- $needs := include "scrapetarget-exporter.plainPrometheusNeeds" . | fromYamlArray }}
{{- if or (has "ca" $needs) (has "certificate" $needs) }}
tls_config:
  ca_file: {{ $folder }}/ca.crt
  {{- if has "certificate" $needs }}
  cert_file: {{ $folder }}/client.crt
  key_file: {{ $folder }}/client.key
  {{- end }}
{{- end }}
{{- if has "password" $needs }}
basic_auth:
  username: USER
  password_file: {{ $folder }}/password
{{- end }}
{{- end }}

{{/* The lines with limits and a proxy for scrapes. */}}
{{- define "scrapetarget-exporter.plainPrometheusLimits" -}}
{{- range $field, $value := include "scrapetarget-exporter.scrapeLimits" . | fromYaml }}
{{ snakecase $field }}: {{ $value | toYaml }}
{{- end }}
{{- end }}

{{/* Relabelings of all targets, with the names that the fields have in the configuration of Prometheus. */}}
{{- define "scrapetarget-exporter.plainPrometheusSteps" -}}
{{- $steps := list }}
{{- range get (first .).Values.discovery (last .) | default list }}
{{- $step := dict }}
{{- range $field, $value := . }}
{{- $_ := set $step (snakecase $field) (ternary (toString $value | lower) $value (eq $field "action")) }}
{{- end }}
{{- $steps = append $steps $step }}
{{- end }}
{{- with $steps }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* Explains these files in a sentence or two. */}}
{{- define "scrapetarget-exporter.plainPrometheusFiles" -}}
{{- $needs := include "scrapetarget-exporter.plainPrometheusNeeds" . | fromYamlArray }}
{{- $web := .Values.webConfig }}
{{- $host := regexReplaceAll ":[0-9]+$" (include "scrapetarget-exporter.probeHost" .) "" }}
{{- $texts := list }}
{{- if has "ca" $needs }}
{{- $texts = append $texts "ca.crt is the certificate authority of the exporter's certificate. Copy it to the host or pod of Prometheus." }}
{{- with $web.tlsSecret }}
{{- $texts = append $texts (printf "If the issuer provides it, it is the key ca.crt of the Secret %s in namespace %s." . (include "scrapetarget-exporter.namespace" $)) }}
{{- end }}
{{- $texts = append $texts (printf "The certificate must be for %s," $host) }}
{{- $texts = append $texts "or set server_name in both tls_config to the name in the certificate." }}
{{- end }}
{{- if has "certificate" $needs }}
{{- $texts = append $texts "client.crt and client.key are a client certificate for Prometheus, signed by client_ca_file of the web configuration." }}
{{- end }}
{{- if has "password" $needs }}
{{- $texts = append $texts "USER and the password are those of basic_auth_users in the web configuration." }}
{{- end }}
{{- join "\n   " $texts }}
{{- end }}

{{/* Ways into the exporter from outside of the cluster, as a list of names. */}}
{{- define "scrapetarget-exporter.entrances" -}}
{{- $found := list }}
{{- if (.Values.ingress).enabled }}{{ $found = append $found "the Ingress" }}{{ end }}
{{- if (.Values.httpRoute).enabled }}{{ $found = append $found "the HTTPRoute" }}{{ end }}
{{- $services := list (list (include "scrapetarget-exporter.fullname" .) .Values.service) (list (include "scrapetarget-exporter.probeService" .) .Values.service.probe) }}
{{- range $services }}
{{- $service := last . }}
{{- if ne $service.type "ClusterIP" }}
{{- $found = append $found (printf "the Service %s (%s)" (first .) $service.type) }}
{{- else if $service.externalIPs }}
{{- $found = append $found (printf "the Service %s (externalIPs)" (first .)) }}
{{- end }}
{{- end }}
{{- if .Values.hostNetwork }}{{ $found = append $found (printf "port %d of a node (hostNetwork)" (int .Values.containerPort)) }}{{ end }}
{{- toYaml $found }}
{{- end }}

{{/* Warnings about settings that will not work, one paragraph each. */}}
{{- define "scrapetarget-exporter.warnings" -}}
{{- $discovery := .Values.discovery }}
{{- $monitors := eq $discovery.mode "serviceMonitor" }}
{{- $has := .Capabilities.APIVersions }}
{{- if and $monitors (not ($has.Has "monitoring.coreos.com/v1/ServiceMonitor")) }}

WARNING: the cluster has no CRD for ServiceMonitors, so Prometheus will not discover the targets. Install the CRDs of the Prometheus
Operator, which the exporter will detect by itself, or set discovery.mode to httpSD or none.
{{- end }}
{{- if and .Values.inspectPrometheus (not .Values.watchNamespaces) ($has.Has "monitoring.coreos.com/v1/Prometheus") }}
{{- include "scrapetarget-exporter.selectorWarnings" . }}
{{- end }}
{{- if and $monitors (include "scrapetarget-exporter.openshift" .) (ne $discovery.monitorNamespace "release") }}

WARNING: OpenShift's user workload monitoring ignores namespace selectors. Set discovery.monitorNamespace to release.
{{- end }}
{{- if and $monitors (include "scrapetarget-exporter.authenticated" .) (not (or $discovery.scrapeClass $discovery.basicAuth $discovery.tls)) }}

WARNING: the exporter requires a certificate or a password, which ServiceMonitors do not have. Set discovery.scrapeClass, or
discovery.monitorNamespace to release together with discovery.tls or discovery.basicAuth.
{{- else if and $monitors (eq (include "scrapetarget-exporter.discoveryScheme" .) "https") (not (or $discovery.scrapeClass $discovery.tls)) }}

NOTE: Prometheus connects to the exporter with https, and must trust the certificate authority of the exporter. If that is your own, set
discovery.scrapeClass, or discovery.monitorNamespace to release together with discovery.tls.
{{- end }}
{{- if and .Values.hostNetwork (has "Icmp" (include "scrapetarget-exporter.probers" . | splitList ",")) }}

NOTE: with hostNetwork, the chart cannot set net.ipv4.ping_group_range. On every node, the group of the pod must be in this range, or
targets of type Icmp fail with the reason permission.
{{- end }}
{{- if not (or .Values.crds.enabled ($has.Has "scrapetarget.dev/v1alpha1/ScrapeTarget")) }}

WARNING: the cluster has no CRD for ScrapeTargets, and crds.enabled is false. The exporter waits until the CustomResourceDefinition is
installed.
{{- end }}
{{- if and .Values.prometheusRule.enabled (not .Values.serviceMonitor.selfMonitor.enabled) }}

WARNING: the alerts about the exporter itself (no leader, late polls) have no series without
serviceMonitor.selfMonitor.enabled.
{{- end }}
{{- if not .Values.rbac.create }}

WARNING: rbac.create is false. See docs/kubernetes.md for the permissions that the exporter needs; its log says which are missing.
{{- end }}
{{- with include "scrapetarget-exporter.entrances" . | fromYamlArray }}
{{- if not (include "scrapetarget-exporter.authenticated" $) }}

WARNING: everyone who can reach one of these can read all metrics and the addresses of all targets: see webConfig.
{{- range . }}
  {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.watchNamespaces (not .Values.crds.keep) .Values.crds.enabled }}

WARNING: crds.keep is false. Uninstalling this release deletes the ScrapeTargets of all namespaces, not only of those it watches.
{{- end }}
{{- end }}

{{/* The labels of a namespace. If it does not exist yet, Helm will create it with these. */}}
{{- define "scrapetarget-exporter.namespaceLabels" -}}
{{- $made := dict "name" . }}
{{- $labels := dig "metadata" "labels" $made (lookup "v1" "Namespace" "" .) }}
{{- toYaml (merge (dict "kubernetes.io/metadata.name" .) $labels) }}
{{- end }}

{{/* Warns if no Prometheus selects the objects that are created for it. */}}
{{- define "scrapetarget-exporter.selectorWarnings" -}}
{{- $discovery := .Values.discovery }}
{{- $namespace := include "scrapetarget-exporter.namespace" . }}
{{- $agent := "monitoring.coreos.com/v1alpha1/PrometheusAgent" }}
{{- if eq $discovery.mode "serviceMonitor" }}
{{- $labels := dict "app.kubernetes.io/managed-by" "scrapetarget-exporter" "scrapetarget.dev/release" (include "scrapetarget-exporter.fullname" .) "scrapetarget.dev/release-namespace" $namespace }}
{{- include "scrapetarget-exporter.selectorWarning" (dict
  "root" . "what" "ServiceMonitors" "field" "serviceMonitor" "also" $agent
  "labels" (merge $labels ($discovery.monitorLabels | default dict)) "value" "discovery.monitorLabels"
  "namespace" (ternary "" $namespace (eq $discovery.monitorNamespace "target"))
) }}
{{- else if eq $discovery.mode "httpSD" }}
{{- with .Values.scrapeConfig }}
{{- if .enabled }}
{{- include "scrapetarget-exporter.selectorWarning" (dict
  "root" $ "what" "ScrapeConfig" "field" "scrapeConfig" "also" $agent
  "labels" (include "scrapetarget-exporter.labelsWith" (list $ .labels $discovery.monitorLabels) | fromYaml)
  "value" "discovery.monitorLabels" "namespace" (.namespace | default $namespace)
) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.prometheusRule }}
{{- if .enabled }}
{{- include "scrapetarget-exporter.selectorWarning" (dict
  "root" $ "what" "PrometheusRule" "field" "rule" "also" "monitoring.coreos.com/v1/ThanosRuler"
  "labels" (include "scrapetarget-exporter.labelsWith" (list $ .additionalLabels $discovery.monitorLabels) | fromYaml)
  "value" "discovery.monitorLabels or prometheusRule.additionalLabels" "namespace" (.namespace | default $namespace)
) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Warns if no Prometheus selects one kind of objects. Takes a dict: `root`; `what` they are; the `field` of selectors; `also`, another kind
that selects them as Prometheus does; their `labels` and the `value` that sets these; and their `namespace`, which is empty if they are in
the namespaces of their targets. The other kind is listed only if no Prometheus selects the objects, because the installation fails if the
user may not list it.
*/}}
{{- define "scrapetarget-exporter.selectorWarning" -}}
{{- $root := .root }}
{{- $labels := .labels }}
{{- $value := .value }}
{{- $namespace := .namespace }}
{{- $field := printf "%sSelector" .field }}
{{- $namespaceField := printf "%sNamespaceSelector" .field }}
{{- $selected := false }}
{{- $reasons := list }}
{{- $narrow := list }}
{{- range $kind := list "monitoring.coreos.com/v1/Prometheus" .also }}
{{- if and (not $selected) ($root.Capabilities.APIVersions.Has $kind) }}
{{- range (lookup (dir $kind) (base $kind) "" "").items }}
{{- $who := printf "%s %s/%s" (base $kind) .metadata.namespace .metadata.name }}
{{- $selector := get .spec $field }}
{{- $namespaces := get .spec $namespaceField }}
{{- if not (hasKey .spec $field) }}
{{- $reasons = append $reasons (printf "%s selects none: its %s is not set" $who $field) }}
{{- else if not (include "scrapetarget-exporter.selects" (dict "selector" $selector "labels" $labels)) }}
{{- $missing := list }}
{{- range $key, $wanted := $selector.matchLabels }}
{{- if not (and (hasKey $labels $key) (eq (get $labels $key) $wanted)) }}
{{- $missing = append $missing (printf "%s: %s" $key $wanted) }}
{{- end }}
{{- end }}
{{- $reason := printf "%s selects %s" $who (toJson $selector) }}
{{- if $missing }}
{{- $reason = printf "%s: set %s to {%s}" $reason $value (join ", " $missing) }}
{{- end }}
{{- $reasons = append $reasons $reason }}
{{- else if and (not (hasKey .spec $namespaceField)) (ne .metadata.namespace $namespace) }}
{{- $reasons = append $reasons (printf "%s selects its own namespace only: its %s is not set" $who $namespaceField) }}
{{- else if and (not $namespace) .spec.ignoreNamespaceSelectors }}
{{- $reasons = append $reasons (printf "%s has ignoreNamespaceSelectors: set discovery.monitorNamespace to release" $who) }}
{{- else if and (not $namespace) $namespaces }}
{{- $narrow = append $narrow (printf "%s selects namespaces with %s" $who (toJson $namespaces)) }}
{{- else if and $namespaces (not (include "scrapetarget-exporter.selects" (dict "selector" $namespaces "labels" (include "scrapetarget-exporter.namespaceLabels" $namespace | fromYaml)))) }}
{{- $reasons = append $reasons (printf "%s selects namespaces with %s, which %s does not match: label it" $who (toJson $namespaces) $namespace) }}
{{- else }}
{{- $selected = true }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if $selected }}
{{- else if $narrow }}

NOTE: ServiceMonitors are created in the namespaces of their targets, and no Prometheus in this cluster selects all namespaces:
{{- range $narrow }}
  {{ . }}
{{- end }}
Targets in other namespaces are not scraped. To scrape them, set discovery.monitorNamespace to release.
{{- else if $reasons }}

WARNING: no Prometheus in this cluster selects the {{ .what }}:
{{- range $reasons }}
  {{ . }}
{{- end }}
{{- end }}
{{- end }}
