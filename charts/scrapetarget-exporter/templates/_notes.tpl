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

{{/* Where the notes have a Prometheus without the Operator look for what it needs to reach the exporter. */}}
{{- define "scrapetarget-exporter.plainPrometheusFolder" -}}
/etc/prometheus/{{ include "scrapetarget-exporter.fullname" . }}
{{- end }}

{{/* What a client must have, as a list of words: ca, certificate, password. */}}
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
{{- /* What a Secret of somebody else says is not known: mostly it is users. */}}
{{- if or $web.existingSecret $config.basic_auth_users (not (has "certificate" $needs)) }}
{{- $needs = append $needs "password" }}
{{- end }}
{{- end }}
{{- toYaml $needs }}
{{- end }}

{{/* The lines by which a Prometheus without the Operator reaches the exporter, for scrapes and for the list of targets alike. */}}
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

{{/* What these files are, in a sentence or two. */}}
{{- define "scrapetarget-exporter.plainPrometheusFiles" -}}
{{- $needs := include "scrapetarget-exporter.plainPrometheusNeeds" . | fromYamlArray }}
{{- $web := .Values.webConfig }}
{{- $host := regexReplaceAll ":[0-9]+$" (include "scrapetarget-exporter.probeHost" .) "" }}
{{- $texts := list }}
{{- if has "ca" $needs }}
{{- $texts = append $texts "ca.crt is the authority of the exporter's certificate. Copy it to where Prometheus runs." }}
{{- with $web.tlsSecret }}
{{- $texts = append $texts (printf "Where the issuer writes one, it stands as ca.crt in the Secret %s of namespace %s." . (include "scrapetarget-exporter.namespace" $)) }}
{{- end }}
{{- $texts = append $texts (printf "The certificate must be for %s," $host) }}
{{- $texts = append $texts "or write the name that it is for as server_name into both tls_config." }}
{{- end }}
{{- if has "certificate" $needs }}
{{- $texts = append $texts "client.crt and client.key are a certificate of Prometheus that client_ca_file of the web configuration has signed." }}
{{- end }}
{{- if has "password" $needs }}
{{- $texts = append $texts "USER and the password are those of basic_auth_users in the web configuration." }}
{{- end }}
{{- join "\n   " $texts }}
{{- end }}

{{/* What will not work as it is set, one paragraph each. */}}
{{- define "scrapetarget-exporter.warnings" -}}
{{- $discovery := .Values.discovery }}
{{- $monitors := eq $discovery.mode "serviceMonitor" }}
{{- $has := .Capabilities.APIVersions }}
{{- if and $monitors (not ($has.Has "monitoring.coreos.com/v1/ServiceMonitor")) }}

WARNING: the cluster knows no ServiceMonitors, so Prometheus will not find the targets. Install the Prometheus Operator's CRDs, which
the exporter will notice by itself, or set discovery.mode to httpSD or none.
{{- end }}
{{- if and .Values.inspectPrometheus (not .Values.watchNamespaces) ($has.Has "monitoring.coreos.com/v1/Prometheus") }}
{{- include "scrapetarget-exporter.selectorWarnings" . }}
{{- end }}
{{- if and $monitors (include "scrapetarget-exporter.openshift" .) (ne $discovery.monitorNamespace "release") }}

WARNING: OpenShift's user workload monitoring ignores namespace selectors. Set discovery.monitorNamespace to release.
{{- end }}
{{- if and $monitors (include "scrapetarget-exporter.authenticated" .) (not (or $discovery.scrapeClass $discovery.basicAuth $discovery.tls)) }}

WARNING: the exporter wants a certificate or a password, and ServiceMonitors cannot carry any. Set discovery.scrapeClass, or
discovery.monitorNamespace to release together with discovery.tls or discovery.basicAuth.
{{- else if and $monitors (eq (include "scrapetarget-exporter.discoveryScheme" .) "https") (not (or $discovery.scrapeClass $discovery.tls)) }}

NOTE: Prometheus asks the exporter by https, and must know the authority of its certificate. If that is one of your own, set
discovery.scrapeClass, or discovery.monitorNamespace to release together with discovery.tls.
{{- end }}
{{- if not (or .Values.crds.enabled ($has.Has "scrapetarget.dev/v1alpha1/ScrapeTarget")) }}

WARNING: the cluster knows no ScrapeTargets, and crds.enabled is false. The exporter waits until somebody installs the
CustomResourceDefinition.
{{- end }}
{{- if and .Values.prometheusRule.enabled (not .Values.serviceMonitor.selfMonitor.enabled) }}

WARNING: the alerts about the exporter itself (nobody leads, polls are late) have no series without
serviceMonitor.selfMonitor.enabled.
{{- end }}
{{- if not .Values.rbac.create }}

WARNING: rbac.create is false. What the exporter must be permitted is in docs/kubernetes.md; its log says what is missing.
{{- end }}
{{- if and .Values.ingress.enabled (not (include "scrapetarget-exporter.authenticated" .)) }}

WARNING: whoever reaches the Ingress can read all metrics and the addresses of all targets: see webConfig.
{{- end }}
{{- if and .Values.watchNamespaces (not .Values.crds.keep) .Values.crds.enabled }}

WARNING: crds.keep is false. Uninstalling this release deletes the ScrapeTargets of all namespaces, not only of those it watches.
{{- end }}
{{- end }}

{{/* The labels of a namespace. One that is not there yet is about to be made by Helm, with these. */}}
{{- define "scrapetarget-exporter.namespaceLabels" -}}
{{- $made := dict "name" . }}
{{- $labels := dig "metadata" "labels" $made (lookup "v1" "Namespace" "" .) }}
{{- toYaml (merge (dict "kubernetes.io/metadata.name" .) $labels) }}
{{- end }}

{{/* Which Prometheus would not find what is written for it. */}}
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
Which Prometheus would not find one kind of objects: a dict of `root`; of `what` they are; of the `field` of selectors; of `also`, a kind
that selects them as Prometheus does; of their `labels` and the `value` that sets these; and of their `namespace`, which is empty if they
are beside their targets. The other kind is asked for only if no Prometheus selects them: whoever may not list it could not install.
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
{{- $reasons = append $reasons (printf "%s looks into its own namespace only: its %s is not set" $who $namespaceField) }}
{{- else if and (not $namespace) .spec.ignoreNamespaceSelectors }}
{{- $reasons = append $reasons (printf "%s has ignoreNamespaceSelectors: set discovery.monitorNamespace to release" $who) }}
{{- else if and (not $namespace) $namespaces }}
{{- $narrow = append $narrow (printf "%s looks into those with %s" $who (toJson $namespaces)) }}
{{- else if and $namespaces (not (include "scrapetarget-exporter.selects" (dict "selector" $namespaces "labels" (include "scrapetarget-exporter.namespaceLabels" $namespace | fromYaml)))) }}
{{- $reasons = append $reasons (printf "%s looks into namespaces with %s, and %s is none of them: label it" $who (toJson $namespaces) $namespace) }}
{{- else }}
{{- $selected = true }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if $selected }}
{{- else if $narrow }}

NOTE: ServiceMonitors stand beside their targets, and no Prometheus of this cluster looks into all namespaces:
{{- range $narrow }}
  {{ . }}
{{- end }}
Targets elsewhere are not scraped. If they must be, set discovery.monitorNamespace to release.
{{- else if $reasons }}

WARNING: no Prometheus of this cluster will find the {{ .what }}:
{{- range $reasons }}
  {{ . }}
{{- end }}
{{- end }}
{{- end }}
