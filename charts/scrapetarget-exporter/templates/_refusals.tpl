{{/*
Refusals of values that the API server, Prometheus or a network plugin would refuse later, or take and never act upon. Each names the field,
and what to write instead.
*/}}

{{/*
Values that must not be null, because an object would not be complete. Helm reads subfolders first, so a file of `tests` calls this: no other
file may find one of them missing before.
*/}}
{{- define "scrapetarget-exporter.refuseNulls" -}}
{{- $needed := list "image" "image.repository" "crds" "targetAccess" "targetAccess.profile" "discovery" "discovery.mode" "scrapeConfig"
  "serviceMonitor" "serviceMonitor.selfMonitor" "limits" "log" "leaderElection" "terminationGracePeriodSeconds" "web" "webConfig"
  "webConfig.existingSecretKey" "webConfig.scheme" "containerPort" "service" "service.type" "service.port" "service.probe" "service.probe.type"
  "serviceAccount" "rbac" "openshift" "cleanup" "strategy.type" "podDisruptionBudget" "networkPolicy" "networkPolicy.egress"
  "networkPolicy.egress.apiServerPorts" "networkPolicy.egress.dnsPorts" "verticalPodAutoscaler" "prometheusRule" "dashboards" "dashboards.label"
  "dashboards.folderAnnotation" "mediasoupAgent" "mediasoupAgent.configMap" "mediasoupAgent.configMap.name" }}
{{- $found := list }}
{{- range $needed }}
{{- $value := $.Values }}
{{- $above := $value }}
{{- range splitList "." . }}
{{- $above = $value }}
{{- $value = index ($value | default dict) . }}
{{- end }}
{{- if and (kindIs "invalid" $value) (not (kindIs "invalid" $above)) }}
{{- $found = append $found . }}
{{- end }}
{{- end }}
{{- with $found }}
{{- fail (printf "null cannot be the value of %s: leave it out for the default of the chart, or set what you mean. If you have not set it, upgrade with --reset-then-reuse-values in place of --reuse-values, which does not know values that are new in the chart" (join ", " .)) }}
{{- end }}
{{- end }}

{{/* An expression that Prometheus cannot compile: takes a list of the name of the field and of its value. Unlike others, regexMatch does not fail. */}}
{{- define "scrapetarget-exporter.refuseRegex" -}}
{{- with last . }}
{{- if not (regexMatch (printf "|%s" .) "") }}
{{- fail (printf "%s is not a regular expression that Prometheus can read: %s" (first $) (toString .)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Lists of relabelings, wherever there are some: expressions, and in those of all targets what the config reloader of Prometheus would expand. */}}
{{- define "scrapetarget-exporter.refuseRelabelings" -}}
{{- $self := .Values.serviceMonitor.selfMonitor | default dict }}
{{- range $place, $values := dict "discovery" .Values.discovery "scrapeConfig" .Values.scrapeConfig "serviceMonitor.selfMonitor" $self }}
{{- range $list := list "relabelings" "metricRelabelings" }}
{{- range $at, $step := get $values $list | default list }}
{{- $field := printf "%s.%s[%d]" $place $list $at }}
{{- include "scrapetarget-exporter.refuseRegex" (list (printf "%s.regex" $field) $step.regex) }}
{{- if and (eq $place "discovery") (eq (toString $step.action | lower) "labeldrop") }}
{{- $kept := list "instance" "job" "namespace" "target_namespace" "target_name" }}
{{- if eq $list "metricRelabelings" }}{{ $kept = concat $kept (list "pod" "member") }}{{ end }}
{{- range $kept }}
{{- if regexMatch (printf "^(?:%s)$" $step.regex) . }}
{{- fail (printf "%s.regex matches the label %s, by which series are told apart, and the exporter does not start with that: leave it out" $field .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq $place "discovery") (contains "$(" (toJson $step)) }}
{{- fail (printf "%s holds \"$(\", which the config reloader of Prometheus would expand as an environment variable: write it differently" $field) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Labels that the results of the rules have. A label of the rule would replace the one of the series, so that alerts about two of them are
equal: Prometheus then gives up the rule.
*/}}
{{- define "scrapetarget-exporter.labelsOfSeries" -}}
call
client
container
endpoint
instance
job
kind
member
mode
namespace
node_name
object
pid
pod
reason
service
stat
state
subservice
target_name
target_namespace
{{- end }}

{{/* Labels of alerts. */}}
{{- define "scrapetarget-exporter.refuseRuleLabels" -}}
{{- $ofSeries := include "scrapetarget-exporter.labelsOfSeries" . | splitList "\n" }}
{{- with .Values.prometheusRule }}
{{- $labels := .additionalRuleLabels | default dict }}
{{- if hasKey $labels "severity" }}
{{- fail "prometheusRule.additionalRuleLabels has severity, which each alert has: set prometheusRule.alerts.NAME.severity instead" }}
{{- end }}
{{- $taken := list }}
{{- range $name, $value := $labels }}
{{- if or (eq $name "alertname") (hasPrefix "__" $name) }}
{{- fail (printf "prometheusRule.additionalRuleLabels has %s, which Prometheus sets itself: write another name" $name) }}
{{- end }}
{{- if has $name $ofSeries }}
{{- $taken = append $taken $name }}
{{- end }}
{{- if contains "{{" $value }}
{{- fail (printf "prometheusRule.additionalRuleLabels.%s has \"{{\", which Prometheus would evaluate for each alert, and a label that changes makes it a new alert: write a fixed text, or use prometheusRule.additionalRuleAnnotations" $name) }}
{{- end }}
{{- end }}
{{- with $taken }}
{{- fail (printf "prometheusRule.additionalRuleLabels has %s, by which alerts are told apart, so that two of them would be equal: write other names" (join ", " .)) }}
{{- end }}
{{- range .groupLabels }}
{{- if hasKey $labels . }}
{{- fail (printf "prometheusRule.additionalRuleLabels has %s, by which prometheusRule.groupLabels tells clusters apart: remove it here, or, where all series are of one cluster, set prometheusRule.groupLabels: []" .) }}
{{- end }}
{{- if has (lower .) (list "inf" "nan") }}
{{- fail (printf "prometheusRule.groupLabels has %s, which PromQL reads as a number: name another label" .) }}
{{- end }}
{{- if or (hasPrefix "__" .) (has . $ofSeries) }}
{{- fail (printf "prometheusRule.groupLabels has %s, which does not tell clusters apart: name a label that all series of a cluster have, such as cluster" .) }}
{{- end }}
{{- end }}
{{- range $name, $own := .alerts }}
{{- if contains "{{" (dig "severity" "" ($own | default dict) | toString) }}
{{- fail (printf "prometheusRule.alerts.%s.severity has \"{{\", which Prometheus would evaluate for each alert: write a fixed text" $name) }}
{{- end }}
{{- end }}
{{- range $name, $text := .additionalRuleAnnotations }}
{{- if or (has $name (list "summary" "description")) (and (eq $name "runbook_url") $.Values.prometheusRule.runbookUrl) }}
{{- fail (printf "prometheusRule.additionalRuleAnnotations has %s, which each alert has: write another name%s" $name (eq $name "runbook_url" | ternary ", or set prometheusRule.runbookUrl" "")) }}
{{- end }}
{{- $text = toString $text }}
{{- if ne (len (splitList "{{" $text)) (len (splitList "}}" $text)) }}
{{- fail (printf "prometheusRule.additionalRuleAnnotations.%s has \"{{\" and \"}}\" that do not belong together, so that Prometheus would load none of the rules: close each template" $name) }}
{{- end }}
{{- end }}
{{- include "scrapetarget-exporter.refuseRegex" (list "prometheusRule.job" .job) }}
{{- end }}
{{- end }}

{{/* A value that must be a list: takes a list of the name of the field, of the value, and of what may be written. Nothing is a list as well. */}}
{{- define "scrapetarget-exporter.refuseNoList" -}}
{{- $value := index . 1 }}
{{- if not (or (kindIs "slice" $value) (kindIs "invalid" $value)) }}
{{- fail (printf "%s is not a list: write one, such as %s" (first .) (last .)) }}
{{- end }}
{{- end }}

{{/*
Rules of a network policy in the format of the other flavor. Cilium selects nothing by an empty rule, and the API server drops fields that a
NetworkPolicy does not have, so that what is left allows everything.
*/}}
{{- define "scrapetarget-exporter.refusePolicyRules" -}}
{{- with .Values.networkPolicy }}
{{- if .enabled }}
{{- $cilium := eq (toString .flavor) "cilium" }}
{{- $rules := dict "networkPolicy.egress.targets" .egress.targets "networkPolicy.ingress.extra" (.ingress).extra }}
{{- range $place, $list := $rules }}
{{- $peer := hasSuffix "targets" $place | ternary "to" "from" }}
{{- range $at, $rule := $list }}
{{- $field := printf "%s[%d]" $place $at }}
{{- if and $cilium (not $rule) }}
{{- fail (printf "%s is empty, and Cilium selects nothing by that. To allow everything, write [{%sEntities: [all]}]" $field $peer) }}
{{- end }}
{{- range $key := keys $rule | sortAlpha }}
{{- if and $cilium (has $key (list "to" "from" "ports")) }}
{{- fail (printf "%s has %s, which a rule of Cilium does not have: write %sCIDR, %sEndpoints, %sEntities or toPorts instead. To allow everything, write [{%sEntities: [all]}]" $field $key $peer $peer $peer $peer) }}
{{- end }}
{{- if and $cilium (eq $key "toPorts") }}
{{- include "scrapetarget-exporter.refuseNoList" (list (printf "%s.toPorts" $field) $rule.toPorts "[{ports: [{port: \"443\"}]}]") }}
{{- range $entry, $ports := $rule.toPorts }}
{{- if not (kindIs "map" $ports) }}
{{- fail (printf "%s.toPorts[%d] is not a map: write {ports: [{port: \"443\"}]}" $field $entry) }}
{{- end }}
{{- include "scrapetarget-exporter.refuseNoList" (list (printf "%s.toPorts[%d].ports" $field $entry) $ports.ports "[{port: \"443\"}]") }}
{{- $count := len ($ports.ports | default list) }}
{{- if gt $count 40 }}
{{- fail (printf "%s.toPorts[%d].ports has %d ports, and Cilium takes 40: write the others into one more entry of toPorts" $field $entry $count) }}
{{- end }}
{{- end }}
{{- end }}
{{- if not (or $cilium (has $key (list $peer "ports"))) }}
{{- fail (printf "%s has %s, which a rule of a NetworkPolicy does not have: write %s and ports. For rules of Cilium, set networkPolicy.flavor: cilium" $field $key $peer) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $peers := dict "networkPolicy.ingress.from" (.ingress).from "networkPolicy.egress.dns" .egress.dns "networkPolicy.egress.apiServer" .egress.apiServer }}
{{- range $place, $list := $peers }}
{{- range $at, $peer := $list }}
{{- $field := printf "%s[%d]" $place $at }}
{{- if not $peer }}
{{- fail (printf "%s is empty: write ipBlock, namespaceSelector or podSelector" $field) }}
{{- end }}
{{- range $key := keys $peer | sortAlpha }}
{{- if not (has $key (list "ipBlock" "namespaceSelector" "podSelector")) }}
{{- fail (printf "%s has %s, which a peer of a NetworkPolicy does not have: write ipBlock, namespaceSelector or podSelector, with both flavors" $field $key) }}
{{- end }}
{{- end }}
{{- if and (hasKey $peer "ipBlock") (gt (len $peer) 1) }}
{{- fail (printf "%s has ipBlock and a selector: write each as a peer of its own" $field) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $at, $port := .egress.targetPorts }}
{{- if kindIs "map" $port }}
{{- $field := printf "networkPolicy.egress.targetPorts[%d]" $at }}
{{- if and $cilium (not $port.port) }}
{{- fail (printf "%s has no port, which Cilium needs: write it, or write the rules into networkPolicy.egress.targets" $field) }}
{{- end }}
{{- if and $port.endPort (kindIs "string" $port.port) }}
{{- fail (printf "%s has endPort, which needs the number of a port, and port is a name: write its number" $field) }}
{{- end }}
{{- if and $port.endPort (lt (int $port.endPort) (int $port.port)) }}
{{- fail (printf "%s has endPort %d, which is less than port: write the higher number as endPort" $field (int $port.endPort)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The numbers that an IP address is made of, as a list in JSON: four, or eight as Go writes them with 0x. Nothing, if it is none. The API server
refuses leading zeros in IPv4 addresses, and so does this. The last two groups of an IPv6 address may be written as an IPv4 address.
*/}}
{{- define "scrapetarget-exporter.addressParts" -}}
{{- $byte := "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])" }}
{{- $isDotted := regexMatch (printf "(^|:)%s(\\.%s){3}$" $byte $byte) . }}
{{- $text := . }}
{{- if and $isDotted (contains ":" .) }}
{{- $end := splitList ":" . | last }}
{{- $bytes := splitList "." $end }}
{{- $text = trimSuffix $end . }}
{{- $text = printf "%s%02x%02x:%02x%02x" $text (index $bytes 0 | int) (index $bytes 1 | int) (index $bytes 2 | int) (index $bytes 3 | int) }}
{{- end }}
{{- if and $isDotted (not (contains ":" .)) }}
{{- splitList "." . | toJson }}
{{- else if regexMatch "^[0-9a-fA-F:]+$" $text }}
{{- $halves := splitList "::" $text }}
{{- $written := list }}
{{- $isGood := le (len $halves) 2 }}
{{- range $halves }}
{{- if and . (not (regexMatch "^[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4})*$" .)) }}
{{- $isGood = false }}
{{- end }}
{{- $written = append $written (splitList ":" . | compact) }}
{{- end }}
{{- $before := first $written }}
{{- $after := gt (len $written) 1 | ternary (last $written) list }}
{{- $zeros := sub 8 (add (len $before) (len $after)) | int }}
{{- if and $isGood (eq (gt $zeros 0) (gt (len $halves) 1)) (ge $zeros 0) }}
{{- $parts := list }}
{{- range concat $before (repeat (max 0 $zeros | int) "0 " | trim | splitList " " | compact) $after }}
{{- $parts = append $parts (printf "0x%s" .) }}
{{- end }}
{{- toJson $parts }}
{{- end }}
{{- end }}
{{- end }}

{{/* The first address of a range: takes a list of the parts of an address in it and of the number of bits. */}}
{{- define "scrapetarget-exporter.firstAddress" -}}
{{- $parts := first . }}
{{- $bits := last . | int }}
{{- $isShort := eq (len $parts) 4 }}
{{- $width := $isShort | ternary 8 16 }}
{{- $first := list }}
{{- range $at, $part := $parts }}
{{- $part = int64 $part }}
{{- $step := 1 }}
{{- range until (max 0 (min $width (sub (mul (add1 $at) $width) $bits)) | int) }}
{{- $step = mul $step 2 }}
{{- end }}
{{- $part = sub $part (mod $part $step) }}
{{- $first = append $first ($isShort | ternary (printf "%d" $part) (printf "%x" $part)) }}
{{- end }}
{{- if $isShort }}
{{- join "." $first }}
{{- else }}
{{- regexReplaceAll "(:0)+$" (join ":" $first) "::" }}
{{- end }}
{{- end }}

{{/*
The IPv4 address that is written as an IPv6 address, as in ::ffff:192.0.2.10: takes the parts of an address. Nothing for others. Kubernetes 1.36
refuses them everywhere.
*/}}
{{- define "scrapetarget-exporter.mappedAddress" -}}
{{- if eq (len .) 8 }}
{{- $groups := list }}
{{- range . }}
{{- $groups = append $groups (int64 .) }}
{{- end }}
{{- if eq (join "," (slice $groups 0 6)) "0,0,0,0,0,65535" }}
{{- $high := index $groups 6 }}
{{- $low := index $groups 7 }}
{{- printf "%d.%d.%d.%d" (div $high 256) (mod $high 256) (div $low 256) (mod $low 256) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A text that must be an IP address: takes a list of the name of the field, of the text, and of what else may be written. */}}
{{- define "scrapetarget-exporter.refuseAddress" -}}
{{- $text := index . 1 | toString }}
{{- $parts := include "scrapetarget-exporter.addressParts" $text | default "[]" | fromJsonArray }}
{{- if not $parts }}
{{- fail (printf "%s is %q, which is not an IP address: write one, such as 192.0.2.10 or 2001:db8::10%s" (first .) $text (last .)) }}
{{- end }}
{{- $field := first . }}
{{- with include "scrapetarget-exporter.mappedAddress" $parts }}
{{- fail (printf "%s is %s, an IPv4 address in the form of IPv6, which Kubernetes 1.36 refuses: write %s" $field $text .) }}
{{- end }}
{{- end }}

{{/*
A text that must be a range of addresses, with the first of them: takes a list of the name of the field, of the text, and of what follows where
Kubernetes is the reason. The API server of Kubernetes 1.36 and newer refuses others, and older ones warn about them. The range in JSON.
*/}}
{{- define "scrapetarget-exporter.refuseRange" -}}
{{- $field := first . }}
{{- $text := index . 1 | toString }}
{{- $where := last . }}
{{- $written := splitList "/" $text }}
{{- $parts := include "scrapetarget-exporter.addressParts" (first $written) | default "[]" | fromJsonArray }}
{{- $all := eq (len $parts) 4 | ternary 32 128 }}
{{- $bits := regexMatch "^(0|[1-9][0-9]{0,2})$" (last $written) | ternary (last $written) "129" | int }}
{{- if or (not $parts) (ne (len $written) 2) (gt $bits $all) }}
{{- fail (printf "%s is %q, which is not a range of addresses: write ADDRESS/BITS, such as 10.0.0.0/8 or fd00::/8" $field $text) }}
{{- end }}
{{- $first := include "scrapetarget-exporter.firstAddress" (list $parts $bits) }}
{{- if ne $first (include "scrapetarget-exporter.firstAddress" (list $parts $all)) }}
{{- fail (printf "%s is %s, which does not begin with the first address of the range, as Kubernetes 1.36 requires%s: write %s/%d, or %s/%d for this address alone" $field $text $where $first $bits (first $written) $all) }}
{{- end }}
{{- toJson (dict "parts" $parts "bits" $bits "first" $first) }}
{{- end }}

{{/* The same, of addresses that are not IPv4 addresses in the form of IPv6. */}}
{{- define "scrapetarget-exporter.refuseRangeOrMapped" -}}
{{- $field := first . }}
{{- $text := index . 1 | toString }}
{{- $where := last . }}
{{- $json := include "scrapetarget-exporter.refuseRange" . }}
{{- $range := fromJson $json }}
{{- with include "scrapetarget-exporter.mappedAddress" $range.parts }}
{{- fail (printf "%s is %s, IPv4 addresses in the form of IPv6, which Kubernetes 1.36 refuses%s: write %s/%d" $field $text $where . (sub $range.bits 96)) }}
{{- end }}
{{- $json }}
{{- end }}

{{/* An `ipBlock` of a NetworkPolicy: takes a list of the name of the field and of the block. */}}
{{- define "scrapetarget-exporter.refuseBlock" -}}
{{- $field := first . }}
{{- $block := kindIs "map" (last .) | ternary (last .) dict }}
{{- if not $block.cidr }}
{{- fail (printf "%s has no cidr: write ADDRESS/BITS, such as 10.0.0.0/8 or fd00::/8" $field) }}
{{- end }}
{{- $range := include "scrapetarget-exporter.refuseRangeOrMapped" (list (printf "%s.cidr" $field) $block.cidr "") | fromJson }}
{{- include "scrapetarget-exporter.refuseNoList" (list (printf "%s.except" $field) $block.except "[10.1.0.0/16]") }}
{{- range $at, $except := $block.except }}
{{- $name := printf "%s.except[%d]" $field $at }}
{{- $part := include "scrapetarget-exporter.refuseRangeOrMapped" (list $name $except "") | fromJson }}
{{- $isLonger := and (eq (len $part.parts) (len $range.parts)) (gt (int $part.bits) (int $range.bits)) }}
{{- if not (and $isLonger (eq $range.first (include "scrapetarget-exporter.firstAddress" (list $part.parts $range.bits)))) }}
{{- fail (printf "%s is %s, which is not a part of %s: write a range within it, or remove this one" $name $except $block.cidr) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Addresses and ranges that the API server would refuse. loadBalancerIP is none of them: it is for the cloud alone, and some take names or lists
there.
*/}}
{{- define "scrapetarget-exporter.refuseAddresses" -}}
{{- range $place, $service := dict "service" .Values.service "service.probe" .Values.service.probe }}
{{- with $service.clusterIP }}
{{- if ne . "None" }}
{{- include "scrapetarget-exporter.refuseAddress" (list (printf "%s.clusterIP" $place) . ", or None for a headless Service, or leave it empty") }}
{{- end }}
{{- end }}
{{- range $at, $address := $service.externalIPs }}
{{- include "scrapetarget-exporter.refuseAddress" (list (printf "%s.externalIPs[%d]" $place $at) $address "") }}
{{- end }}
{{- range $at, $range := $service.loadBalancerSourceRanges }}
{{- $_ := include "scrapetarget-exporter.refuseRangeOrMapped" (list (printf "%s.loadBalancerSourceRanges[%d]" $place $at) $range "") }}
{{- end }}
{{- end }}
{{- range $at, $alias := .Values.hostAliases }}
{{- include "scrapetarget-exporter.refuseAddress" (list (printf "hostAliases[%d].ip" $at) ($alias.ip | default "") "") }}
{{- end }}
{{- $names := (.Values.dnsConfig | default dict).nameservers }}
{{- include "scrapetarget-exporter.refuseNoList" (list "dnsConfig.nameservers" $names "[10.96.0.10]") }}
{{- range $at, $address := $names }}
{{- include "scrapetarget-exporter.refuseAddress" (list (printf "dnsConfig.nameservers[%d]" $at) $address "") }}
{{- end }}
{{- with .Values.networkPolicy }}
{{- if .enabled }}
{{- if not .egress.targets }}
{{- $where := " in network policies (networkPolicy.enabled is true)" }}
{{- range $at, $range := $.Values.targetAccess.cidrs }}
{{- $_ := include "scrapetarget-exporter.refuseRangeOrMapped" (list (printf "targetAccess.cidrs[%d]" $at) $range $where) }}
{{- end }}
{{- /* What is denied stands in a policy only as an exception of the whole Internet. */}}
{{- $access := $.Values.targetAccess }}
{{- if or (eq $access.profile "Any") (regexMatch "/0( |$)" (join " " $access.cidrs)) }}
{{- range $at, $range := $.Values.targetDenyCidr }}
{{- $_ := include "scrapetarget-exporter.refuseRange" (list (printf "targetDenyCidr[%d]" $at) $range $where) }}
{{- end }}
{{- end }}
{{- end }}
{{- $peers := dict "networkPolicy.ingress.from" (.ingress).from "networkPolicy.egress.dns" .egress.dns "networkPolicy.egress.apiServer" .egress.apiServer }}
{{- if ne (toString .flavor) "cilium" }}
{{- $rules := dict "networkPolicy.egress.targets" .egress.targets "networkPolicy.ingress.extra" (.ingress).extra }}
{{- range $place, $list := $rules }}
{{- $key := hasSuffix "targets" $place | ternary "to" "from" }}
{{- range $at, $rule := $list }}
{{- $field := printf "%s[%d].%s" $place $at $key }}
{{- $inside := get ($rule | default dict) $key | default list }}
{{- include "scrapetarget-exporter.refuseNoList" (list $field $inside "[{ipBlock: {cidr: 10.0.0.0/8}}]") }}
{{- $_ := set $peers $field $inside }}
{{- end }}
{{- end }}
{{- end }}
{{- range $place, $list := $peers }}
{{- range $at, $peer := $list }}
{{- if not (and $peer (kindIs "map" $peer)) }}
{{- fail (printf "%s[%d] is empty, or not a map: write ipBlock, namespaceSelector or podSelector" $place $at) }}
{{- end }}
{{- if hasKey $peer "ipBlock" }}
{{- include "scrapetarget-exporter.refuseBlock" (list (printf "%s[%d].ipBlock" $place $at) $peer.ipBlock) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Hooks without a handler, or with more than one. null takes one of another file of values away. */}}
{{- define "scrapetarget-exporter.refuseHooks" -}}
{{- range $name, $hook := .Values.lifecycle }}
{{- if not (kindIs "invalid" $hook) }}
{{- $handlers := list }}
{{- range $handler, $fields := $hook }}
{{- if not (kindIs "invalid" $fields) }}
{{- $handlers = append $handlers $handler }}
{{- end }}
{{- end }}
{{- if not $handlers }}
{{- fail (printf "lifecycle.%s has no handler: write sleep, httpGet or exec, or null for no hook" $name) }}
{{- end }}
{{- if gt (len $handlers) 1 }}
{{- fail (printf "lifecycle.%s has %s, and a hook has one handler: remove one, or set it to null" $name (join " and " $handlers)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* ClusterRoles that nothing would bind. */}}
{{- define "scrapetarget-exporter.refuseUnboundRoles" -}}
{{- with .Values.rbac }}
{{- $existing := .existingClusterRoles | default dict }}
{{- range $purpose, $role := $existing }}
{{- if and $role (not $.Values.rbac.create) }}
{{- fail (printf "rbac.existingClusterRoles.%s needs rbac.create: true, which binds it: a role that exists is not created. To bind it yourself, remove it" $purpose) }}
{{- end }}
{{- end }}
{{- if and .extraRules (not .create) }}
{{- fail "rbac.extraRules needs rbac.create: true: without it, add the rules to your own roles" }}
{{- end }}
{{- range $purpose := list "secrets" "members" }}
{{- if and (get $existing $purpose) (eq (get $.Values.rbac $purpose | toString) "none") }}
{{- fail (printf "rbac.existingClusterRoles.%s is not bound with rbac.%s: none: remove one of them" $purpose $purpose) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What both Services cannot have, and families that a policy excludes. */}}
{{- define "scrapetarget-exporter.refuseServices" -}}
{{- with .Values.service }}
{{- if and .nodePort (eq (int .nodePort) (int .probe.nodePort)) }}
{{- fail (printf "service.nodePort and service.probe.nodePort are both %d, and a port of the nodes leads to one Service: write another number for one of them, or 0 for any" (int .nodePort)) }}
{{- end }}
{{- $sets := dict "service" . }}
{{- if (.ipDualStack).enabled }}
{{- $sets = dict "service.ipDualStack" .ipDualStack }}
{{- end }}
{{- range $place, $set := $sets }}
{{- if and (gt (len ($set.ipFamilies | default list)) 1) (eq (toString $set.ipFamilyPolicy) "SingleStack") }}
{{- fail (printf "%s.ipFamilies has two families, and %s.ipFamilyPolicy is SingleStack: leave one family, or write PreferDualStack or RequireDualStack" $place $place) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Two values for one key of the metadata of dashboards. */}}
{{- define "scrapetarget-exporter.refuseDashboards" -}}
{{- with .Values.dashboards }}
{{- if hasKey (include "scrapetarget-exporter.labels" $ | fromYaml) .label }}
{{- fail (printf "dashboards.label is %s, which the chart sets itself: write the label by which the sidecar of Grafana finds dashboards" .label) }}
{{- end }}
{{- $other := get (.labels | default dict) .label }}
{{- if and $other (ne $other (toString .labelValue)) }}
{{- fail (printf "dashboards.labels has %s: %s, and dashboards.labelValue is %s: remove one of them" .label $other (toString .labelValue)) }}
{{- end }}
{{- $other = get (.annotations | default dict) .folderAnnotation }}
{{- if and .folder $other (ne $other .folder) }}
{{- fail (printf "dashboards.annotations has %s: %s, and dashboards.folder is %s: remove one of them" .folderAnnotation $other .folder) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Containers of one pod under one name, of which the API server refuses the second. */}}
{{- define "scrapetarget-exporter.refuseContainers" -}}
{{- $seen := dict "exporter" "the exporter itself" }}
{{- range $place := list "extraInitContainers" "initContainers" "extraContainers" "sidecars" }}
{{- range $at, $container := get $.Values $place | default list }}
{{- $field := printf "%s[%d]" $place $at }}
{{- with $container.name }}
{{- if hasKey $seen . }}
{{- fail (printf "%s.name is %s, which is the name of %s: write another name" $field . (get $seen .)) }}
{{- end }}
{{- $_ := set $seen . $field }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
