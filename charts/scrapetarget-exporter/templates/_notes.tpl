{{/* "true" if a label selector selects: a dict of `selector` and `labels`. */}}
{{- define "scrapetarget-exporter.selects" -}}
{{- $labels := .labels }}
{{- $fits := true }}
{{- range $key, $value := .selector.matchLabels }}
{{- if ne (get $labels $key) $value }}{{ $fits = false }}{{ end }}
{{- end }}
{{- range .selector.matchExpressions }}
{{- $there := hasKey $labels .key }}
{{- $among := and $there (has (get $labels .key) (.values | default list)) }}
{{- $holds := get (dict "In" $among "NotIn" (not $among) "Exists" $there "DoesNotExist" (not $there)) .operator }}
{{- if not $holds }}{{ $fits = false }}{{ end }}
{{- end }}
{{- if $fits }}true{{ end }}
{{- end }}

{{/* What will not work as it is set, one paragraph each. */}}
{{- define "scrapetarget-exporter.warnings" -}}
{{- $discovery := .Values.discovery }}
{{- $monitors := eq $discovery.mode "serviceMonitor" }}
{{- $config := and (eq $discovery.mode "httpSD") .Values.scrapeConfig.enabled }}
{{- $has := .Capabilities.APIVersions }}
{{- if and $monitors (not ($has.Has "monitoring.coreos.com/v1/ServiceMonitor")) }}

WARNING: the cluster knows no ServiceMonitors, so Prometheus will not find the targets. Install the Prometheus Operator's CRDs, which
the exporter will notice by itself, or set discovery.mode to httpSD or none.
{{- end }}
{{- if or $monitors $config }}
{{- include "scrapetarget-exporter.selectorWarnings" . }}
{{- end }}
{{- if and $monitors (include "scrapetarget-exporter.openshift" .) (ne $discovery.monitorNamespace "release") }}

WARNING: OpenShift's user workload monitoring ignores namespace selectors. Set discovery.monitorNamespace to release.
{{- end }}
{{- if and $monitors (include "scrapetarget-exporter.authenticated" .) (not (or $discovery.scrapeClass $discovery.basicAuth $discovery.tls)) }}

WARNING: the exporter wants a certificate or a password, and ServiceMonitors cannot carry any. Set discovery.scrapeClass, or
discovery.monitorNamespace to release together with discovery.tls or discovery.basicAuth.
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

{{/* Which Prometheus would not find what is written for it. */}}
{{- define "scrapetarget-exporter.selectorWarnings" -}}
{{- $namespace := include "scrapetarget-exporter.namespace" . }}
{{- $inspect := and .Values.inspectPrometheus (not .Values.watchNamespaces) (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/Prometheus") }}
{{- $servers := list }}
{{- if $inspect }}
{{- $servers = (lookup "monitoring.coreos.com/v1" "Prometheus" "" "").items | default list }}
{{- end }}
{{- $kind := "ServiceMonitor" }}
{{- $labels := dict "app.kubernetes.io/managed-by" "scrapetarget-exporter" "scrapetarget.dev/release" (include "scrapetarget-exporter.fullname" .) "scrapetarget.dev/release-namespace" $namespace }}
{{- $labels = merge $labels .Values.discovery.monitorLabels }}
{{- $beside := and (eq .Values.discovery.mode "serviceMonitor") (eq .Values.discovery.monitorNamespace "target") }}
{{- if eq .Values.discovery.mode "httpSD" }}
{{- $kind = "ScrapeConfig" }}
{{- $labels = include "scrapetarget-exporter.labelsWith" (list . .Values.scrapeConfig.labels .Values.discovery.monitorLabels) | fromYaml }}
{{- $namespace = .Values.scrapeConfig.namespace | default $namespace }}
{{- end }}
{{- $field := printf "%sSelector" (untitle $kind) }}
{{- $namespaceField := printf "%sNamespaceSelector" (untitle $kind) }}
{{- $selected := false }}
{{- $reasons := list }}
{{- range $servers }}
{{- $who := printf "%s/%s" .metadata.namespace .metadata.name }}
{{- $selector := get .spec $field }}
{{- if not (hasKey .spec $field) }}
{{- $reasons = append $reasons (printf "%s selects none: its %s is not set" $who $field) }}
{{- else if not (include "scrapetarget-exporter.selects" (dict "selector" $selector "labels" $labels)) }}
{{- $reason := printf "%s selects %s" $who (toJson $selector) }}
{{- range $key, $value := $selector.matchLabels }}
{{- if ne (get $labels $key) $value }}
{{- $reason = printf "%s: set discovery.monitorLabels to {%s: %s}" $reason $key $value }}
{{- end }}
{{- end }}
{{- $reasons = append $reasons $reason }}
{{- else if and (not (hasKey .spec $namespaceField)) (or $beside (ne .metadata.namespace $namespace)) }}
{{- $reasons = append $reasons (printf "%s looks into its own namespace only: its %s is not set" $who $namespaceField) }}
{{- else if and $beside .spec.ignoreNamespaceSelectors }}
{{- $reasons = append $reasons (printf "%s has ignoreNamespaceSelectors: set discovery.monitorNamespace to release" $who) }}
{{- else }}
{{- $selected = true }}
{{- end }}
{{- end }}
{{- if and $reasons (not $selected) }}

WARNING: no Prometheus of this cluster will find the {{ $kind }}{{ if eq $kind "ServiceMonitor" }}s{{ end }}:
{{- range $reasons }}
  {{ . }}
{{- end }}
{{- end }}
{{- end }}
