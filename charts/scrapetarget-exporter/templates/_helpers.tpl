{{/* The name of the chart, or nameOverride. */}}
{{- define "scrapetarget-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 46 | trimAll "-" }}
{{- end }}

{{/*
The name of all objects: the name of the installation for the exporter. Short enough for the longest ending, -cleanup-monitors, in 63
characters. A release may have dots in its name, a Service may not.
*/}}
{{- define "scrapetarget-exporter.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | replace "." "-" | trunc 46 | trimAll "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | replace "." "-" | trunc 46 | trimAll "-" }}
{{- end }}
{{- end }}

{{- define "scrapetarget-exporter.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "scrapetarget-exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "scrapetarget-exporter.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The Service whose only endpoint is the leader. */}}
{{- define "scrapetarget-exporter.probeService" -}}
{{- printf "%s-probe" (include "scrapetarget-exporter.fullname" .) }}
{{- end }}

{{- define "scrapetarget-exporter.leaseName" -}}
{{- default (include "scrapetarget-exporter.fullname" .) .Values.leaderElection.leaseName }}
{{- end }}

{{/* Selector labels of this release. They contain no version, because selectors cannot be changed. */}}
{{- define "scrapetarget-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "scrapetarget-exporter.name" . | toYaml }}
app.kubernetes.io/instance: {{ .Release.Name | toYaml }}
{{- end }}

{{/* Selects only the exporter's own pods: those of Jobs and of tests must not be endpoints of a Service. */}}
{{- define "scrapetarget-exporter.podSelectorLabels" -}}
{{ include "scrapetarget-exporter.selectorLabels" . }}
app.kubernetes.io/component: exporter
{{- end }}

{{/* Labels of every object. commonLabels may override them, except for the selector labels. */}}
{{- define "scrapetarget-exporter.labels" -}}
{{- $fixed := include "scrapetarget-exporter.selectorLabels" . | fromYaml }}
{{- $_ := set $fixed "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimAll "-._") }}
{{- $_ := set $fixed "app.kubernetes.io/managed-by" .Release.Service }}
{{- $whole := dict "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/part-of" "scrapetarget-exporter" }}
{{- toYaml (merge $fixed (.Values.commonLabels | default dict) $whole) }}
{{- end }}

{{/* These labels and others: takes a list of the root and of maps. */}}
{{- define "scrapetarget-exporter.labelsWith" -}}
{{- $labels := include "scrapetarget-exporter.labels" (first .) | fromYaml }}
{{- range rest . }}
{{- $labels = merge $labels (. | default dict) }}
{{- end }}
{{- toYaml $labels }}
{{- end }}

{{- define "scrapetarget-exporter.image" -}}
{{- $registry := default .Values.image.registry (.Values.global | default dict).imageRegistry }}
{{- $repository := .Values.image.repository }}
{{- if $registry }}
{{- $repository = printf "%s/%s" (trimSuffix "/" $registry) $repository }}
{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "scrapetarget-exporter.imagePullSecrets" -}}
{{- $secrets := list }}
{{- $everywhere := (.Values.global | default dict).imagePullSecrets | default list }}
{{- range concat $everywhere (.Values.imagePullSecrets | default list) }}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- with uniq $secrets }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* "true" or nothing, for a value that is true, false or auto: takes a list of the value and of what auto means. */}}
{{- define "scrapetarget-exporter.decide" -}}
{{- $value := toString (first .) }}
{{- if or (eq $value "true") (and (eq $value "auto") (last .)) }}true{{ end }}
{{- end }}

{{- define "scrapetarget-exporter.openshift" -}}
{{- include "scrapetarget-exporter.decide" (list .Values.openshift.enabled (.Capabilities.APIVersions.Has "security.openshift.io/v1")) }}
{{- end }}

{{/* The types that may be probed, with commas. Without the value (null, or reused values of an older chart) they are those of its default. */}}
{{- define "scrapetarget-exporter.probers" -}}
{{- if kindIs "invalid" .Values.probers }}Http,Tcp,Dns,Grpc,WebSocket,Stun,Turn,Prometheus{{ else }}{{ join "," .Values.probers | default "none" }}{{ end }}
{{- end }}

{{/* OpenShift assigns a range of users to each namespace, and rejects others. */}}
{{- define "scrapetarget-exporter.podSecurityContext" -}}
{{- $context := .Values.podSecurityContext | default dict }}
{{- if include "scrapetarget-exporter.openshift" . }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{/* The security context of the pods that poll: to ping, the group of the process must be in the range of the sysctl. */}}
{{- define "scrapetarget-exporter.pollingSecurityContext" -}}
{{- $context := include "scrapetarget-exporter.podSecurityContext" . | fromYaml }}
{{- if and (has "Icmp" (include "scrapetarget-exporter.probers" . | splitList ",")) (not .Values.hostNetwork) }}
{{- $range := "net.ipv4.ping_group_range" }}
{{- /* OpenShift runs the process in the group 0; the image has a group of its own. */}}
{{- $group := ternary 0 65532 (eq (include "scrapetarget-exporter.openshift" .) "true") }}
{{- range list $context (.Values.securityContext | default dict) }}
{{- if not (kindIs "invalid" .runAsGroup) }}{{ $group = .runAsGroup }}{{ end }}
{{- end }}
{{- $sysctls := $context.sysctls | default list }}
{{- $set := false }}
{{- range $sysctls }}
{{- if eq .name $range }}{{ $set = true }}{{ end }}
{{- end }}
{{- if not $set }}
{{- $own := dict "name" $range "value" (printf "%d %d" (int64 $group) (int64 $group)) }}
{{- $context = merge (dict "sysctls" (append $sysctls $own)) $context }}
{{- end }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{/* The scheme of the listener: http or https. */}}
{{- define "scrapetarget-exporter.scheme" -}}
{{- $web := .Values.webConfig }}
{{- if not $web.enabled }}http
{{- else if ne $web.scheme "auto" }}{{ $web.scheme }}
{{- else if or $web.tlsSecret (hasKey ($web.config | default dict) "tls_server_config") }}https
{{- else }}http
{{- end }}
{{- end }}

{{/* "true" if a client needs a certificate or a password. */}}
{{- define "scrapetarget-exporter.authenticated" -}}
{{- $web := .Values.webConfig }}
{{- if $web.enabled }}
{{- $config := $web.config | default dict }}
{{- $certificates := include "scrapetarget-exporter.clientCertificates" . }}
{{- $asks := or $web.existingSecret $config.basic_auth_users $certificates }}
{{- include "scrapetarget-exporter.decide" (list $web.authenticated $asks) }}
{{- end }}
{{- end }}

{{/* "true" if a client needs a certificate. */}}
{{- define "scrapetarget-exporter.clientCertificates" -}}
{{- $web := .Values.webConfig }}
{{- if $web.enabled }}
{{- $wanted := dig "tls_server_config" "client_auth_type" "" ($web.config | default dict) }}
{{- $asks := or $web.existingSecret (has $wanted (list "RequireAnyClientCert" "RequireClientCert" "RequireAndVerifyClientCert")) }}
{{- include "scrapetarget-exporter.decide" (list $web.clientCertificates $asks) }}
{{- end }}
{{- end }}

{{/* "true" if a client without certificate and password, such as the kubelet, cannot request /-/ready. */}}
{{- define "scrapetarget-exporter.healthClosed" -}}
{{- if include "scrapetarget-exporter.authenticated" . }}
{{- if or (not .Values.web.openHealth) (include "scrapetarget-exporter.clientCertificates" .) }}true{{ end }}
{{- end }}
{{- end }}

{{- define "scrapetarget-exporter.webConfigSecret" -}}
{{- default (printf "%s-web-config" (include "scrapetarget-exporter.fullname" .)) .Values.webConfig.existingSecret }}
{{- end }}

{{- define "scrapetarget-exporter.webConfigKey" -}}
{{- ternary .Values.webConfig.existingSecretKey "web-config.yml" (ne .Values.webConfig.existingSecret "") }}
{{- end }}

{{/* The host that Prometheus connects to: the leader. */}}
{{- define "scrapetarget-exporter.probeHost" -}}
{{- printf "%s.%s.svc:%v" (include "scrapetarget-exporter.probeService" .) (include "scrapetarget-exporter.namespace" .) .Values.service.port }}
{{- end }}

{{/* The scheme that Prometheus uses, which may be that of a proxy in front of the listener. */}}
{{- define "scrapetarget-exporter.discoveryScheme" -}}
{{- default (include "scrapetarget-exporter.scheme" .) .Values.discovery.scheme }}
{{- end }}

{{/* One argument, from a list of the flag and its value; none if the value is null. The kubelet would replace $(NAME). */}}
{{- define "scrapetarget-exporter.arg" -}}
{{- if not (kindIs "invalid" (last .)) -}}
- {{ printf "--%s=%v" (first .) (last .) | replace "$" "$$" | quote }}
{{- end }}
{{- end }}

{{/* The hosts that targets may name, as a YAML list; empty if the profile ignores hosts. */}}
{{- define "scrapetarget-exporter.targetHosts" -}}
{{- $hosts := list }}
{{- $access := .Values.targetAccess }}
{{- if eq $access.profile "OwnNamespace" }}
{{- $hosts = list "*.{namespace}.svc" (printf "*.{namespace}.svc.%s" (include "scrapetarget-exporter.clusterDomain" .)) }}
{{- end }}
{{- if ne $access.profile "Any" }}
{{- $hosts = concat $hosts ($access.hosts | default list) | uniq }}
{{- end }}
{{- toYaml $hosts }}
{{- end }}

{{- define "scrapetarget-exporter.clusterDomain" -}}
{{- .Values.clusterDomain | default "cluster.local" }}
{{- end }}

{{/* The arguments about where targets may point. */}}
{{- define "scrapetarget-exporter.targetArgs" -}}
{{- range .Values.targetDenyCidr }}
{{ include "scrapetarget-exporter.arg" (list "target-deny-cidr" .) }}
{{- end }}
{{- if .Values.targetAllowLoopback }}
- --target-allow-loopback
{{- end }}
{{ include "scrapetarget-exporter.arg" (list "probers" (include "scrapetarget-exporter.probers" .)) }}
{{- range include "scrapetarget-exporter.targetHosts" . | fromYamlArray }}
{{ include "scrapetarget-exporter.arg" (list "target-allow-host" .) }}
{{- end }}
{{- if ne .Values.targetAccess.profile "Any" }}
{{- range .Values.targetAccess.cidrs }}
{{ include "scrapetarget-exporter.arg" (list "target-allow-cidr" .) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Addresses that the exporter never contacts: link-local addresses, and the other metadata services of clouds. A NetworkPolicy does not match
addresses inside others (mapped, NAT64, 6to4): only the exporter checks those.
*/}}
{{- define "scrapetarget-exporter.neverContacted" -}}
- 169.254.0.0/16
- 100.100.100.200/32
- 168.63.129.16/32
- 192.0.0.192/32
- fe80::/10
- fd00:ec2::/32
- fd20:ce::254/128
- fd00:42::42/128
{{- end }}

{{/*
An `ipBlock` of a NetworkPolicy: takes a list of the root and of the range. For the whole Internet, however it is written, denied ranges are
excepted. IPv4 addresses in the form of IPv6 are not: Kubernetes refuses them, no packet has them, and the exporter compares an address in this
form as the IPv4 address that it is.
*/}}
{{- define "scrapetarget-exporter.ipBlock" -}}
{{- $range := last . }}
{{- $block := dict "cidr" $range }}
{{- /* A range that is denied as a whole cannot be an exception of itself. */}}
{{- $isDenied := false }}
{{- if hasSuffix "/0" $range }}
{{- $except := list }}
{{- $denied := (first .).Values.targetDenyCidr | default list }}
{{- range concat (include "scrapetarget-exporter.neverContacted" . | fromYamlArray) $denied | uniq }}
{{- $parts := include "scrapetarget-exporter.addressParts" (splitList "/" . | first) | default "[]" | fromJsonArray }}
{{- if and (eq (contains ":" .) (contains ":" $range)) (not (include "scrapetarget-exporter.mappedAddress" $parts)) }}
{{- $isDenied = or $isDenied (hasSuffix "/0" .) }}
{{- $except = append $except . }}
{{- end }}
{{- end }}
{{- $_ := set $block "except" $except }}
{{- end }}
{{- if not $isDenied }}
{{- toYaml (list (dict "ipBlock" $block)) }}
{{- end }}
{{- end }}

{{/*
Where targets may be: `peers` as a NetworkPolicy has them, and `hosts` that it cannot match. Not every plugin matches pods by address, so
pods have peers of their own.
*/}}
{{- define "scrapetarget-exporter.targetPeers" -}}
{{- $access := .Values.targetAccess }}
{{- $domain := include "scrapetarget-exporter.clusterDomain" . }}
{{- $hosts := include "scrapetarget-exporter.targetHosts" . | fromYamlArray }}
{{- $pods := eq $access.profile "Any" }}
{{- $elsewhere := list }}
{{- range $hosts }}
{{- if or (hasSuffix ".svc" (lower .)) (hasSuffix (printf ".svc.%s" $domain) (lower .)) }}
{{- $pods = true }}
{{- else }}
{{- $elsewhere = append $elsewhere . }}
{{- end }}
{{- end }}
{{- $peers := list }}
{{- if $pods }}
{{- /* A target that may only be in its own namespace is in a watched namespace. */}}
{{- $watched := .Values.watchNamespaces }}
{{- if and $watched (eq $access.profile "OwnNamespace") (not $access.hosts) }}
{{- $names := dict "key" "kubernetes.io/metadata.name" "operator" "In" "values" (uniq $watched) }}
{{- $peers = append $peers (dict "namespaceSelector" (dict "matchExpressions" (list $names))) }}
{{- else }}
{{- $peers = append $peers (dict "namespaceSelector" dict) }}
{{- end }}
{{- end }}
{{- $ranges := $access.cidrs | default list }}
{{- if eq $access.profile "Any" }}
{{- $ranges = list "0.0.0.0/0" "::/0" }}
{{- end }}
{{- range $ranges }}
{{- $peers = concat $peers (include "scrapetarget-exporter.ipBlock" (list $ .) | fromYamlArray) }}
{{- end }}
{{- toYaml (dict "peers" $peers "hosts" $elsewhere) }}
{{- end }}

{{/* The ports of targets, as a NetworkPolicy has them; empty for all. */}}
{{- define "scrapetarget-exporter.targetPorts" -}}
{{- $ports := list }}
{{- range (.Values.networkPolicy.egress | default dict).targetPorts }}
{{- $ports = append $ports (kindIs "map" . | ternary . (dict "port" . "protocol" "TCP")) }}
{{- end }}
{{- toYaml $ports }}
{{- end }}

{{/* The addresses of targets, as egress rules of a NetworkPolicy. No rule: no target is allowed that a NetworkPolicy could match. */}}
{{- define "scrapetarget-exporter.targetRules" -}}
{{- $targets := include "scrapetarget-exporter.targetPeers" . | fromYaml }}
{{- if $targets.hosts }}
{{- fail (printf "networkPolicy.egress.targets must contain the addresses of %s: a NetworkPolicy does not support host names. With Cilium, set networkPolicy.flavor: cilium instead" (join ", " $targets.hosts)) }}
{{- end }}
{{- $ports := include "scrapetarget-exporter.targetPorts" . | fromYamlArray }}
{{- with $targets.peers }}
{{- $rule := dict "to" . }}
{{- if $ports }}
{{- $_ := set $rule "ports" $ports }}
{{- end }}
{{- toYaml (list $rule) }}
{{- end }}
{{- end }}

{{/* The namespaces and pods of a peer of a NetworkPolicy, as Cilium selects them by labels. */}}
{{- define "scrapetarget-exporter.ciliumSelector" -}}
{{- $labels := dict }}
{{- $expressions := list }}
{{- $anywhere := hasKey . "namespaceSelector" }}
{{- $named := .namespaceSelector | default dict }}
{{- range $key, $value := $named.matchLabels }}
{{- $_ := set $labels (printf "k8s:io.cilium.k8s.namespace.labels.%s" $key) $value }}
{{- end }}
{{- range $named.matchExpressions }}
{{- $expressions = append $expressions (merge (dict "key" (printf "k8s:io.cilium.k8s.namespace.labels.%s" .key)) .) }}
{{- end }}
{{- if and $anywhere (not (or $labels $expressions)) }}
{{- $expressions = append $expressions (dict "key" "k8s:io.kubernetes.pod.namespace" "operator" "Exists") }}
{{- end }}
{{- with .podSelector }}
{{- range $key, $value := .matchLabels }}
{{- $_ := set $labels $key $value }}
{{- end }}
{{- range .matchExpressions }}
{{- $expressions = append $expressions . }}
{{- end }}
{{- end }}
{{- $selector := dict }}
{{- if $labels }}{{ $_ := set $selector "matchLabels" $labels }}{{ end }}
{{- if $expressions }}{{ $_ := set $selector "matchExpressions" $expressions }}{{ end }}
{{- toYaml $selector }}
{{- end }}

{{/* The `toPorts` of a rule of Cilium, 40 ports in each, which is the most: takes a list of the ports and of what is in each besides. */}}
{{- define "scrapetarget-exporter.ciliumPorts" -}}
{{- $entries := list }}
{{- $besides := last . }}
{{- range chunk 40 (first .) }}
{{- $entries = append $entries (merge (dict "ports" .) $besides) }}
{{- end }}
{{- toYaml $entries }}
{{- end }}

{{/*
Peers of a NetworkPolicy as rules of Cilium, where pods and addresses cannot be in the same rule: takes a list of `from` or `to`, of the
peers and of the `toPorts`.
*/}}
{{- define "scrapetarget-exporter.ciliumRules" -}}
{{- $direction := first . }}
{{- $ports := last . }}
{{- $endpoints := list }}
{{- $ranges := list }}
{{- range index . 1 }}
{{- if .ipBlock }}
{{- $ranges = append $ranges .ipBlock }}
{{- else }}
{{- $endpoints = append $endpoints (include "scrapetarget-exporter.ciliumSelector" . | fromYaml) }}
{{- end }}
{{- end }}
{{- $rules := list }}
{{- with $endpoints }}
{{- $rules = append $rules (dict (printf "%sEndpoints" $direction) .) }}
{{- end }}
{{- with $ranges }}
{{- $rules = append $rules (dict (printf "%sCIDRSet" $direction) .) }}
{{- end }}
{{- if $ports }}
{{- range $rules }}
{{- $_ := set . "toPorts" $ports }}
{{- end }}
{{- end }}
{{- toYaml $rules }}
{{- end }}

{{/*
Where targets may be, as egress rules of Cilium. It does not count nodes, and pods on their network, as addresses: with the profile Any they
are allowed as the rest of the cluster. The exporter matches a suffix at any depth; for Cilium, only two asterisks do.
*/}}
{{- define "scrapetarget-exporter.ciliumTargetRules" -}}
{{- $targets := include "scrapetarget-exporter.targetPeers" . | fromYaml }}
{{- $ports := list }}
{{- range include "scrapetarget-exporter.targetPorts" . | fromYamlArray }}
{{- $port := dict "port" (toString .port) "protocol" (.protocol | default "TCP") }}
{{- with .endPort }}{{ $_ := set $port "endPort" (int .) }}{{ end }}
{{- $ports = append $ports $port }}
{{- end }}
{{- $ports = include "scrapetarget-exporter.ciliumPorts" (list $ports dict) | fromYamlArray }}
{{- $rules := include "scrapetarget-exporter.ciliumRules" (list "to" $targets.peers $ports) | fromYamlArray }}
{{- $others := list }}
{{- if eq .Values.targetAccess.profile "Any" }}
{{- $others = append $others (dict "toEntities" (list "cluster")) }}
{{- end }}
{{- $names := list }}
{{- range $targets.hosts }}
{{- $name := lower . | replace "{namespace}" "*" }}
{{- if hasPrefix "*." . }}
{{- $names = append $names (dict "matchPattern" $name) }}
{{- $names = append $names (dict "matchPattern" (printf "*%s" $name)) }}
{{- else if contains "*" $name }}
{{- $names = append $names (dict "matchPattern" $name) }}
{{- else }}
{{- $names = append $names (dict "matchName" $name) }}
{{- end }}
{{- end }}
{{- with $names }}
{{- $others = append $others (dict "toFQDNs" .) }}
{{- end }}
{{- range $others }}
{{- if $ports }}{{ $_ := set . "toPorts" $ports }}{{ end }}
{{- $rules = append $rules . }}
{{- end }}
{{- toYaml $rules }}
{{- end }}

{{/* Host names under which the exporter is served, as a YAML list; empty if any name is allowed. */}}
{{- define "scrapetarget-exporter.allowedHosts" -}}
{{- $hosts := .Values.web.allowedHosts | default list }}
{{- if $hosts }}
{{- $namespace := include "scrapetarget-exporter.namespace" . }}
{{- range $name := list (include "scrapetarget-exporter.fullname" .) (include "scrapetarget-exporter.probeService" .) }}
{{- range list "" (printf ".%s" $namespace) (printf ".%s.svc" $namespace) (printf ".%s.svc.%s" $namespace (include "scrapetarget-exporter.clusterDomain" $)) }}
{{- $hosts = append $hosts (printf "%s%s" $name .) }}
{{- end }}
{{- end }}
{{- if (.Values.ingress).enabled }}
{{- range .Values.ingress.hosts }}
{{- $hosts = append $hosts .host }}
{{- end }}
{{- end }}
{{- if (.Values.httpRoute).enabled }}
{{- $hosts = concat $hosts (.Values.httpRoute.hostnames | default list) }}
{{- end }}
{{- end }}
{{- toYaml (uniq $hosts) }}
{{- end }}

{{/* A number of bytes such as 128MiB. */}}
{{- define "scrapetarget-exporter.bytes" -}}
{{- $unit := dict "K" 1024 "M" 1048576 "G" 1073741824 | dig (regexFind "[KMG]" .) 1 }}
{{- mul (regexFind "^[0-9]+" . | int64) $unit }}
{{- end }}

{{/*
The resources of every container of the image. docs/operating.md, section Size, explains the figures. The request covers the memory at
startup and the memory of each target (its poller, its last response, and with TLS a connection); the limit also covers responses that are
being read, which take more memory than their size when they are decoded.
*/}}
{{- define "scrapetarget-exporter.resources" -}}
{{- $atStart := 64 }}{{/* MiB */}}
{{- $ofTarget := 64 }}{{/* KiB */}}
{{- $ofInflight := 2 }}{{/* bytes for each byte of limits.maxInflightBytes */}}
{{- $values := .Values }}
{{- if not (kindIs "invalid" $values.resources) }}
{{- with $values.resources }}
{{- toYaml . }}
{{- else }}
{{- $targets := $values.expectedTargets | default 1000 | int64 }}
{{- $atRest := add (mul $atStart 1048576) (mul $targets $ofTarget 1024) }}
{{- $inflight := include "scrapetarget-exporter.bytes" ($values.limits.maxInflightBytes | default "128MiB") | int64 }}
{{- $most := add $atRest (mul $inflight $ofInflight) }}
{{- $mebibytes := dict }}
{{- range $name, $bytes := dict "requests" $atRest "limits" $most }}
{{- $_ := set $mebibytes $name (dict "memory" (printf "%dMi" (div (add $bytes 1048575) 1048576))) }}
{{- end }}
{{- toYaml $mebibytes }}
{{- end }}
{{- end }}
{{- end }}

{{/* The arguments that `run` and `cleanup` share: they identify the objects of this release. */}}
{{- define "scrapetarget-exporter.releaseArgs" -}}
{{ include "scrapetarget-exporter.arg" (list "namespace" (include "scrapetarget-exporter.namespace" .)) }}
{{ include "scrapetarget-exporter.arg" (list "release-name" (include "scrapetarget-exporter.fullname" .)) }}
{{- range .Values.watchNamespaces }}
{{ include "scrapetarget-exporter.arg" (list "watch-namespace" .) }}
{{- end }}
{{ include "scrapetarget-exporter.arg" (list "discovery.mode" .Values.discovery.mode) }}
{{- with .Values.leaderElection.leaseName }}
{{ include "scrapetarget-exporter.arg" (list "leader-election.lease-name" .) }}
{{- end }}
{{- end }}

{{- define "scrapetarget-exporter.logArgs" -}}
{{ include "scrapetarget-exporter.arg" (list "log-level" .Values.log.level) }}
{{ include "scrapetarget-exporter.arg" (list "log-format" .Values.log.format) }}
{{- end }}

{{/* Where the exporter creates ServiceMonitors: nothing, * or namespaces separated by commas. */}}
{{- define "scrapetarget-exporter.monitorNamespaces" -}}
{{- if eq .Values.discovery.mode "serviceMonitor" }}
{{- if .Values.watchNamespaces }}
{{- append .Values.watchNamespaces (include "scrapetarget-exporter.namespace" .) | uniq | sortAlpha | join "," }}
{{- else }}*
{{- end }}
{{- end }}
{{- end }}

{{/* A duration such as 1m30s in whole seconds. */}}
{{- define "scrapetarget-exporter.seconds" -}}
{{- $number := list . | first }}
{{- $of := dict "h" 3600 "m" 60 "s" 1 }}
{{- $seconds := 0 }}
{{- range $part := regexFindAll "[0-9]+(h|ms|m|s)" $number -1 }}
{{- $unit := regexFind "[a-z]+" $part }}
{{- $seconds = add $seconds (mul (regexFind "[0-9]+" $part | int) (get $of $unit | default 0)) }}
{{- end }}
{{- $seconds }}
{{- end }}

{{/* The pattern of a label selector. */}}
{{- define "scrapetarget-exporter.selectorPattern" -}}
{{- $domain := "[a-z0-9]([-a-z0-9]*[a-z0-9])?" }}
{{- $name := "[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?" }}
{{- $key := printf "(%s(\\.%s)*/)?%s" $domain $domain $name }}
{{- $values := printf "\\( *(%s)?( *, *(%s)?)* *\\)" $name $name }}
{{- $one := printf " *(!%s|%s( *(=|==|!=) *(%s)?| +(in|notin) *%s)?) *" $key $key $name $values }}
{{- printf "^%s(,%s)*$" $one $one }}
{{- end }}

{{/* Fields of the spec of a Service that both Services may have: takes the values of the one. */}}
{{- define "scrapetarget-exporter.serviceSpec" -}}
type: {{ .type }}
{{- range $field := list "clusterIP" "loadBalancerIP" "loadBalancerClass" "externalTrafficPolicy" "internalTrafficPolicy" "sessionAffinity" }}
{{- with get $ $field }}
{{ $field }}: {{ . | toYaml }}
{{- end }}
{{- end }}
{{- range $field := list "externalIPs" "loadBalancerSourceRanges" }}
{{- with get $ $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* What a VerticalPodAutoscaler may set on the exporter's container: takes its values. */}}
{{- define "scrapetarget-exporter.verticalBounds" -}}
{{- $bounds := dict }}
{{- range $field := list "minAllowed" "maxAllowed" "controlledResources" "controlledValues" }}
{{- with get $ $field }}
{{- $_ := set $bounds $field . }}
{{- end }}
{{- end }}
{{- toYaml $bounds }}
{{- end }}

{{/* Fields of a Service that do not go together: takes a list of the place of the values and of them. */}}
{{- define "scrapetarget-exporter.validateService" -}}
{{- $place := first . }}
{{- with last . }}
{{- if and .nodePort (eq .type "ClusterIP") }}
{{- fail (printf "%s.nodePort needs %s.type: NodePort or LoadBalancer" $place $place) }}
{{- end }}
{{- $given := . }}
{{- range $field := list "loadBalancerIP" "loadBalancerClass" "loadBalancerSourceRanges" }}
{{- if and (get $given $field) (ne $given.type "LoadBalancer") }}
{{- fail (printf "%s.%s needs %s.type: LoadBalancer" $place $field $place) }}
{{- end }}
{{- end }}
{{- if and .externalTrafficPolicy (eq .type "ClusterIP") (not .externalIPs) }}
{{- fail (printf "%s.externalTrafficPolicy needs %s.type: NodePort or LoadBalancer, or %s.externalIPs" $place $place $place) }}
{{- end }}
{{- if and (eq (toString .clusterIP) "None") (ne .type "ClusterIP") }}
{{- fail (printf "%s.clusterIP: None needs %s.type: ClusterIP, since the other types need an address of the cluster" $place $place) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Flags for which the chart has a value, including aliases, with the names of these values. */}}
{{- define "scrapetarget-exporter.ownFlags" -}}
debug-bodies: web.debugBodies
discovery.allowed-scrape-class: discovery.allowedScrapeClasses
discovery.basic-auth: discovery.basicAuth
discovery.body-size-limit: discovery.bodySizeLimit
discovery.honor-labels: discovery.honorLabels
discovery.label-limit: discovery.labelLimit
discovery.label-name-length-limit: discovery.labelNameLengthLimit
discovery.label-value-length-limit: discovery.labelValueLengthLimit
discovery.metric-relabelings: discovery.metricRelabelings
discovery.mode: discovery.mode
discovery.monitor-annotation: discovery.monitorAnnotations
discovery.monitor-label: discovery.monitorLabels
discovery.monitor-namespace: discovery.monitorNamespace
discovery.proxy-url: discovery.proxyUrl
discovery.relabelings: discovery.relabelings
discovery.scheme: discovery.scheme
discovery.scrape-class: discovery.scrapeClass
discovery.service: fullnameOverride
discovery.target-limit: discovery.targetLimit
discovery.tls: discovery.tls
icmp-max-payload: limits.icmpMaxPayload
leader-election.lease-duration: leaderElection.leaseDuration
leader-election.lease-name: leaderElection.leaseName
listen-address: containerPort
log-format: log.format
log-level: log.level
log.format: log.format
log.level: log.level
max-body-bytes: limits.maxBodyBytes
max-inflight-bytes: limits.maxInflightBytes
max-probes-per-address: limits.maxProbesPerAddress
max-sample-limit: limits.maxSampleLimit
namespace: namespaceOverride
probers: probers
release-name: fullnameOverride
secret-label: secretLabel
shutdown-delay: shutdownDelay
target-allow-cidr: targetAccess.cidrs
target-allow-host: targetAccess.hosts
target-allow-loopback: targetAllowLoopback
target-deny-cidr: targetDenyCidr
target-selector: targetSelector
targets: targets
watch-namespace: watchNamespaces
web.allowed-hosts: web.allowedHosts
web.config.file: webConfig
web.external-url: web.externalUrl
web.listen-address: containerPort
web.loose-targets: web.looseTargets
web.max-connections: limits.maxConnections
web.open-health: web.openHealth
{{- end }}

{{/* Arguments and variables for which there are values: the program rejects most flags that are given twice, and a flag overrides its variable. */}}
{{- define "scrapetarget-exporter.validateExtra" -}}
{{- $own := include "scrapetarget-exporter.ownFlags" . | fromYaml }}
{{- $variables := dict }}
{{- range $flag, $value := $own }}
{{- $_ := set $variables (printf "SCRAPETARGET_%s" (regexReplaceAll "[-.]" $flag "_" | upper)) $value }}
{{- end }}
{{- range $place, $argument := .Values.extraArgs }}
{{- if hasPrefix "--" $argument }}
{{- $flag := regexFind "^[^= ]+" $argument }}
{{- with get $own (trimPrefix "--" $flag) }}
{{- fail (printf "extraArgs has %s, for which the chart has a value: set %s instead" $flag .) }}
{{- end }}
{{- if has $flag (list "--advertise-address" "--leader-election.identity") }}
{{- fail (printf "extraArgs has %s, which the chart sets from each pod: leave it out" $flag) }}
{{- end }}
{{- if has $flag (list "--secrets-directory" "--help") }}
{{- fail (printf "extraArgs has %s, with which no pod can run: leave it out" $flag) }}
{{- end }}
{{- if contains " " (regexFind "^[^=]+" $argument) }}
{{- fail (printf "extraArgs has %q, which the program would read as a single word: write it as --flag=value" $argument) }}
{{- end }}
{{- else if or (eq $place 0) (hasPrefix "-" $argument) }}
{{- fail (printf "extraArgs has %q, which is not a flag: write --flag=value" $argument) }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- $name := .name }}
{{- with get $variables (toString $name) }}
{{- fail (printf "extraEnv has %s, for which the chart has a value: set %s instead" $name .) }}
{{- end }}
{{- if has $name (list "SCRAPETARGET_ADVERTISE_ADDRESS" "SCRAPETARGET_LEADER_ELECTION_IDENTITY") }}
{{- fail (printf "extraEnv has %s, which the chart sets from each pod: leave it out" $name) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The query of /sd for the targets whose labels win, or for all others. Prometheus has honorLabels for a whole scrape configuration, and only some
targets ask for it: each is in one of the two.
*/}}
{{- define "scrapetarget-exporter.sdQuery" -}}
{{- $honorLabels := last . }}
{{- with (first .).Values.discovery.honorLabels | default "declared" }}
{{- if ne . "never" }}?honorLabels={{ $honorLabels }}{{ end }}
{{- if eq . "byDefault" }}&honorLabelsDefault=true{{ end }}
{{- end }}
{{- end }}

{{/* The values of honorLabels for which there is a scrape configuration, as a YAML list. */}}
{{- define "scrapetarget-exporter.sdJobs" -}}
{{- if eq (.Values.discovery.honorLabels | default "declared") "never" }}[false]{{ else }}[false, true]{{ end }}
{{- end }}

{{/* Limits of scrape jobs and their proxy, as a ScrapeConfig has them. */}}
{{- define "scrapetarget-exporter.scrapeLimits" -}}
{{- $limits := dict }}
{{- $discovery := .Values.discovery }}
{{- range $field := list "targetLimit" "labelLimit" "labelNameLengthLimit" "labelValueLengthLimit" }}
{{- with get $discovery $field | int64 }}
{{- $_ := set $limits $field . }}
{{- end }}
{{- end }}
{{- range $field := list "bodySizeLimit" "proxyUrl" }}
{{- with get $discovery $field }}
{{- $_ := set $limits $field . }}
{{- end }}
{{- end }}
{{- toYaml $limits }}
{{- end }}

{{/* Mistakes that the schema cannot detect. */}}
{{- define "scrapetarget-exporter.validate" -}}
{{- $name := include "scrapetarget-exporter.fullname" . }}
{{- if not (regexMatch "^[a-z]" $name) }}
{{- fail (printf "%s cannot be the name of a Service, which must begin with a letter: set fullnameOverride, or choose another name for the release" $name) }}
{{- end }}
{{- $discovery := .Values.discovery }}
{{- $web := .Values.webConfig }}
{{- if and $discovery.basicAuth (ne $discovery.monitorNamespace "release") }}
{{- fail "discovery.basicAuth needs discovery.monitorNamespace: release, since a ServiceMonitor cannot refer to a Secret of another namespace" }}
{{- end }}
{{- $tls := $discovery.tls | default dict }}
{{- $references := or $tls.ca $tls.cert $tls.keySecret }}
{{- if and $references (ne $discovery.monitorNamespace "release") }}
{{- fail "discovery.tls with ca, cert or keySecret needs discovery.monitorNamespace: release, or use discovery.scrapeClass" }}
{{- end }}
{{- /* Only the exporter knows the content of an existing Secret. */}}
{{- $unknown := and $web.enabled $web.existingSecret (eq $web.scheme "auto") (not $discovery.scheme) }}
{{- if and $tls (ne (include "scrapetarget-exporter.discoveryScheme" .) "https") (not $unknown) }}
{{- fail "discovery.tls needs https: set discovery.scheme: https" }}
{{- end }}
{{- include "scrapetarget-exporter.refuseRelabelings" . }}
{{- include "scrapetarget-exporter.refusePolicyRules" . }}
{{- include "scrapetarget-exporter.refuseUnboundRoles" . }}
{{- include "scrapetarget-exporter.refuseServices" . }}
{{- include "scrapetarget-exporter.refuseDashboards" . }}
{{- include "scrapetarget-exporter.refuseContainers" . }}
{{- include "scrapetarget-exporter.refuseHooks" . }}
{{- $lease := .Values.leaderElection.leaseDuration | default "15s" }}
{{- $seconds := include "scrapetarget-exporter.seconds" $lease | int }}
{{- if or (contains "ms" $lease) (lt $seconds 5) (gt $seconds 300) }}
{{- fail (printf "leaderElection.leaseDuration is %s: it must be whole seconds from 5s to 5m" $lease) }}
{{- end }}
{{- with .Values.targetSelector }}
{{- if not (regexMatch (include "scrapetarget-exporter.selectorPattern" .) .) }}
{{- fail (printf "targetSelector is not a label selector in the syntax of kubectl -l, such as team=media,tier in (edge, core): %s" .) }}
{{- end }}
{{- end }}
{{- if and $web.enabled (not (or $web.existingSecret $web.config $web.tlsSecret)) }}
{{- fail "webConfig.enabled needs one of webConfig.existingSecret, webConfig.config and webConfig.tlsSecret" }}
{{- end }}
{{- if and $web.existingSecret $web.config }}
{{- fail "webConfig.existingSecret and webConfig.config are mutually exclusive: remove one" }}
{{- end }}
{{- $shutdownDelay := .Values.shutdownDelay | default "10s" }}
{{- $delay := include "scrapetarget-exporter.seconds" $shutdownDelay | int }}
{{- if le (int .Values.terminationGracePeriodSeconds) $delay }}
{{- fail (printf "terminationGracePeriodSeconds is %d: it must be more than shutdownDelay, which is %s" (int .Values.terminationGracePeriodSeconds) $shutdownDelay) }}
{{- end }}
{{- with include "scrapetarget-exporter.lifecycle" . | fromYaml }}
{{- $sleep := dig "preStop" "sleep" "seconds" 0 . | int }}
{{- if le (int $.Values.terminationGracePeriodSeconds) (add $delay $sleep | int) }}
{{- fail (printf "terminationGracePeriodSeconds is %d: it must be more than lifecycle.preStop.sleep and shutdownDelay together, which are %ds" (int $.Values.terminationGracePeriodSeconds) (add $delay $sleep)) }}
{{- end }}
{{- end }}
{{- $service := .Values.service }}
{{- include "scrapetarget-exporter.validateService" (list "service" $service) }}
{{- include "scrapetarget-exporter.validateService" (list "service.probe" $service.probe) }}
{{- include "scrapetarget-exporter.refuseAddresses" . }}
{{- if and ($service.ipDualStack).enabled (or $service.ipFamilies $service.ipFamilyPolicy) }}
{{- fail "service.ipFamilies and service.ipFamilyPolicy are set, and service.ipDualStack.enabled sets both as well: remove one or the other" }}
{{- end }}
{{- if and (eq (toString $service.probe.clusterIP) "None") (ne (int $service.port) (int .Values.containerPort)) }}
{{- fail (printf "service.probe.clusterIP: None needs service.port to be containerPort, which is %d: a headless Service does not translate ports" (int .Values.containerPort)) }}
{{- end }}
{{- if and (eq (toString $service.clusterIP) "None") (ne (int $service.port) (int .Values.containerPort)) }}
{{- fail (printf "service.clusterIP: None needs service.port to be containerPort, which is %d: a headless Service does not translate ports" (int .Values.containerPort)) }}
{{- end }}
{{- if and (.Values.httpRoute).enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the Gateway to attach to, such as [{name: NAME, namespace: NAMESPACE}]" }}
{{- end }}
{{- $bounds := include "scrapetarget-exporter.verticalBounds" .Values.verticalPodAutoscaler | fromYaml }}
{{- range .Values.verticalPodAutoscaler.containerPolicies }}
{{- if and $bounds (eq (toString .containerName) "exporter") }}
{{- fail (printf "verticalPodAutoscaler.containerPolicies has the container exporter, and so has verticalPodAutoscaler.%s: remove one" (keys $bounds | sortAlpha | first)) }}
{{- end }}
{{- end }}
{{- if and .Values.rbac.extraRules (.Values.rbac.existingClusterRoles).targets }}
{{- fail "rbac.extraRules would be added to the role that rbac.existingClusterRoles.targets replaces: add the rules to that ClusterRole" }}
{{- end }}
{{- if and (.Values.ingress).enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.enabled needs ingress.hosts" }}
{{- end }}
{{- $seen := dict }}
{{- range .Values.targets }}
{{- $target := printf "%s/%s" (.namespace | default (include "scrapetarget-exporter.namespace" $)) .name }}
{{- if hasKey $seen $target }}
{{- fail (printf "targets has %s twice: give one of them another name or namespace" $target) }}
{{- end }}
{{- $_ := set $seen $target true }}
{{- end }}
{{- $access := .Values.targetAccess }}
{{- if and (eq $access.profile "Any") (or $access.hosts $access.cidrs) }}
{{- fail "targetAccess.hosts and targetAccess.cidrs need targetAccess.profile: Listed or OwnNamespace. With Any, everything is permitted" }}
{{- end }}
{{- if and (eq $access.profile "Listed") (not (or $access.hosts $access.cidrs)) }}
{{- fail "targetAccess.profile: Listed needs targetAccess.hosts or targetAccess.cidrs. Without both, no target could be polled" }}
{{- end }}
{{- with (.Values.networkPolicy.egress | default dict) }}
{{- if and .targets .targetPorts }}
{{- fail "networkPolicy.egress.targets and networkPolicy.egress.targetPorts are mutually exclusive: write the ports into the rules" }}
{{- end }}
{{- end }}
{{- include "scrapetarget-exporter.validateExtra" . }}
{{- if and .Values.rbac.secretNamespaces (ne .Values.rbac.secrets "namespaces") }}
{{- fail "rbac.secretNamespaces needs rbac.secrets: namespaces" }}
{{- end }}
{{- if and .Values.rbac.memberNamespaces (ne .Values.rbac.members "namespaces") }}
{{- fail "rbac.memberNamespaces needs rbac.members: namespaces" }}
{{- end }}
{{- if and (eq .Values.rbac.members "namespaces") (not .Values.watchNamespaces) }}
{{- fail "rbac.members: namespaces needs watchNamespaces. Without them the exporter watches the EndpointSlices of all namespaces at once, for which only rbac.members: cluster is enough" }}
{{- end }}
{{- range .Values.rbac.memberNamespaces }}
{{- if not (has . $.Values.watchNamespaces) }}
{{- fail (printf "rbac.memberNamespaces has %s, where no targets are watched: add it to watchNamespaces, or leave it out" .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The rules of the exporter, as deploy/rbac.yaml explains them. */}}
{{- define "scrapetarget-exporter.rules.targets" -}}
- apiGroups: [scrapetarget.dev]
  resources: [scrapetargets]
  verbs: [list, watch]
- apiGroups: [scrapetarget.dev]
  resources: [scrapetargets/status]
  verbs: [patch]
{{- with .Values.rbac.extraRules }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "scrapetarget-exporter.rules.secrets" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
{{- end }}

{{- define "scrapetarget-exporter.rules.members" -}}
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- end }}

{{- define "scrapetarget-exporter.rules.monitors" -}}
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}

{{/*
The name of a binding: takes a list of the name that it has with a role of the chart, and of the ClusterRole that exists, or nothing. A
binding cannot be changed to another role, so it has another name with each.
*/}}
{{- define "scrapetarget-exporter.bindingName" -}}
{{- $name := first . }}
{{- with last . }}
{{- $name = printf "%s-%s" $name (sha256sum . | trunc 8) }}
{{- end }}
{{- $name }}
{{- end }}

{{/*
Rights somewhere: roles and bindings. Takes `root`, `name`, `rules`, `account`, perhaps `annotations`, perhaps `existing` (a ClusterRole to
bind in place of a role of the chart), and where: `namespaces` (a Role and a RoleBinding in each), `bindings` (a ClusterRole, and a
RoleBinding in each) or neither (a ClusterRole and its binding).
*/}}
{{- define "scrapetarget-exporter.rights" -}}
{{- $ := .root }}
{{- $cluster := not (hasKey . "namespaces") }}
{{- $subjects := list (dict "kind" "ServiceAccount" "name" .account "namespace" (include "scrapetarget-exporter.namespace" $)) }}
{{- $labels := include "scrapetarget-exporter.labels" $ | fromYaml }}
{{- $metadata := dict "name" .name "labels" $labels }}
{{- with .annotations }}
{{- $_ := set $metadata "annotations" . }}
{{- end }}
{{- $ref := dict "apiGroup" "rbac.authorization.k8s.io" "kind" (ternary "ClusterRole" "Role" $cluster) "name" .name }}
{{- $api := "rbac.authorization.k8s.io/v1" }}
{{- $existing := .existing | default "" }}
{{- $binding := $metadata }}
{{- if $existing }}
{{- $ref = dict "apiGroup" "rbac.authorization.k8s.io" "kind" "ClusterRole" "name" $existing }}
{{- $binding = merge (dict "name" (include "scrapetarget-exporter.bindingName" (list .name $existing))) $metadata }}
{{- end }}
{{- if $cluster }}
{{- if not $existing }}
---
{{ toYaml (dict "apiVersion" $api "kind" "ClusterRole" "metadata" $metadata "rules" (fromYamlArray .rules)) }}
{{- end }}
{{- if not (hasKey . "bindings") }}
---
{{ toYaml (dict "apiVersion" $api "kind" "ClusterRoleBinding" "metadata" $binding "roleRef" $ref "subjects" $subjects) }}
{{- end }}
{{- end }}
{{- $rules := .rules }}
{{- range concat (.namespaces | default list) (.bindings | default list) }}
{{- $here := merge (dict "namespace" .) $metadata }}
{{- if not (or $cluster $existing) }}
---
{{ toYaml (dict "apiVersion" $api "kind" "Role" "metadata" $here "rules" (fromYamlArray $rules)) }}
{{- end }}
{{- $here = merge (dict "namespace" .) $binding }}
---
{{ toYaml (dict "apiVersion" $api "kind" "RoleBinding" "metadata" $here "roleRef" $ref "subjects" $subjects) }}
{{- end }}
{{- end }}

{{/* Fields of every container of the image. */}}
{{- define "scrapetarget-exporter.container" -}}
image: {{ include "scrapetarget-exporter.image" . | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
A probe of the exporter: a list of the root, of the value, of the path that is asked and of the other defaults. A value that says how to
ask is the whole probe; without that, it is put over the defaults.
*/}}
{{- define "scrapetarget-exporter.probe" -}}
{{- $root := first . }}
{{- $value := index . 1 }}
{{- if not (or $value.httpGet $value.tcpSocket $value.exec $value.grpc) }}
{{- $handler := dict "tcpSocket" (dict "port" "http") }}
{{- if not (include "scrapetarget-exporter.healthClosed" $root) }}
{{- $scheme := include "scrapetarget-exporter.scheme" $root | upper }}
{{- $handler = dict "httpGet" (dict "path" (index . 2) "port" "http" "scheme" $scheme) }}
{{- end }}
{{- $value = merge dict $value (index . 3) $handler }}
{{- end }}
{{- toYaml $value }}
{{- end }}

{{/* Hooks of the exporter's container, without those that are null. */}}
{{- define "scrapetarget-exporter.lifecycle" -}}
{{- $hooks := dict }}
{{- range $name, $hook := .Values.lifecycle }}
{{- $handlers := dict }}
{{- range $handler, $fields := $hook }}
{{- if not (kindIs "invalid" $fields) }}
{{- $_ := set $handlers $handler $fields }}
{{- end }}
{{- end }}
{{- with $handlers }}
{{- $_ := set $hooks $name . }}
{{- end }}
{{- end }}
{{- with $hooks }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* Fields of every pod: security context and scheduling. */}}
{{- define "scrapetarget-exporter.pod" -}}
{{- include "scrapetarget-exporter.podWith" (list . (include "scrapetarget-exporter.podSecurityContext" .)) }}
{{- end }}

{{/* The same with another security context: takes a list of the root and of that. */}}
{{- define "scrapetarget-exporter.podWith" -}}
{{- $securityContext := last . }}
{{- with first . -}}
enableServiceLinks: false
{{- with include "scrapetarget-exporter.imagePullSecrets" . }}
imagePullSecrets:
  {{- . | nindent 2 }}
{{- end }}
securityContext:
  {{- $securityContext | nindent 2 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | toYaml }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . | toYaml }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | toYaml }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Selector labels for the pods of a Job or a test: takes a list of the root and of the component. They are no endpoints of a Service. */}}
{{- define "scrapetarget-exporter.helperSelectorLabels" -}}
{{ include "scrapetarget-exporter.selectorLabels" (first .) }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* The labels of such a pod. */}}
{{- define "scrapetarget-exporter.helperPodLabels" -}}
{{- $labels := include "scrapetarget-exporter.helperSelectorLabels" . | fromYaml }}
{{- toYaml (merge $labels ((first .).Values.commonLabels | default dict)) }}
{{- end }}

{{/* The spec of a clean-up Job: takes a dict of `root`, `account` and `args`, which is YAML. */}}
{{- define "scrapetarget-exporter.cleanupJob" -}}
{{- $ := .root -}}
template:
  metadata:
    labels:
      {{- include "scrapetarget-exporter.helperPodLabels" (list $ "cleanup") | nindent 6 }}
  spec:
    {{- include "scrapetarget-exporter.pod" $ | nindent 4 }}
    restartPolicy: Never
    serviceAccountName: {{ .account | toYaml }}
    automountServiceAccountToken: true
    containers:
      - name: cleanup
        {{- include "scrapetarget-exporter.container" $ | nindent 8 }}
        args:
          - cleanup
          {{- .args | nindent 10 }}
          {{- include "scrapetarget-exporter.logArgs" $ | nindent 10 }}
        {{- with $.Values.cleanup.resources }}
        resources:
          {{- toYaml . | nindent 10 }}
        {{- else }}
        {{- with include "scrapetarget-exporter.resources" $ }}
        resources:
          {{- . | nindent 10 }}
        {{- end }}
        {{- end }}
{{- range $field := list "backoffLimit" "activeDeadlineSeconds" "ttlSecondsAfterFinished" }}
{{- $value := index $.Values.cleanup $field }}
{{- if not (kindIs "invalid" $value) }}
{{ $field }}: {{ int64 $value }}
{{- end }}
{{- end }}
{{- end }}
