#!/usr/bin/env bash
# The first process of the node: brings Kubernetes up, runs the command, and ends. Only run.sh starts it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# Addresses of the node's own network: no other machine is reached from here.
ADDRESS=10.89.0.1 PODS=10.244.0.0/16 SERVICES=10.96.0.0/16 API=10.96.0.1 DNS=10.96.0.10
PKI=$E2E_NODE/pki LOG=$E2E_NODE/log
mkdir -p "$PKI" "$LOG" "$E2E_NODE"/{cni,registries,sysctl,var/{lib,log,tmp,run}}

started=${EPOCHREALTIME/./}
say() { printf 'node: %-40s %5s s\n' "$1" "$(((${EPOCHREALTIME/./} - started) / 100000))e-1" | sed -E 's/([0-9]*)([0-9])e-1/\1.\2/; s/ \./0./' >&2; }

# until_true SECONDS LOG COMMAND...: tries again until it succeeds; in the end, shows the log of the daemon that is waited for.
until_true() {
  local end=$((SECONDS + $1)) log=$LOG/$2.log
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "error: the node does not come up: $* fails; the end of $log:" >&2
      tail -n 20 "$log" >&2
      exit 1
    fi
    sleep 0.1
  done
}

# start NAME COMMAND...: a daemon, whose log is kept under its name.
start() {
  setsid "${@:2}" >"$LOG/$1.log" 2>&1 </dev/null &
  disown # the test may kill it, which is nothing to tell
}

mounts_and_network() {
  hostname node
  mount --make-rshared /
  mount --bind "$E2E_NODE/var" /var
  mount -t tmpfs tmpfs /run
  # kubelet wants these values of the whole machine: it is shown them, and the machine is left alone.
  local setting file
  for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
                 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$E2E_NODE/sysctl/${setting//\//.}
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
  done
  ip link set lo up
  # Both ends are here: nothing comes in, nothing goes out.
  ip link add eth0 type veth peer name wire
  ip link set wire up
  ip addr add "$ADDRESS/24" dev eth0
  ip link set eth0 up
  # A packet needs a route before kube-proxy turns it to a Pod.
  ip route add "$SERVICES" dev eth0 src "$ADDRESS"
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$1.key"; }

# certificate NAME SUBJECT [ALTERNATIVE_NAMES]
certificate() {
  key "$1"
  openssl req -new -key "$PKI/$1.key" -subj "$2" \
    | openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 2 -out "$PKI/$1.crt" \
      -extfile <(echo "extendedKeyUsage=clientAuth,serverAuth"; [ -z "${3:-}" ] || echo "subjectAltName=$3") 2>/dev/null
}

# kubeconfig NAME: with the certificate of that name.
kubeconfig() {
  cat >"$PKI/$1.conf" <<CONFIG
apiVersion: v1
kind: Config
current-context: node
clusters: [{name: node, cluster: {server: "https://$ADDRESS:6443", certificate-authority: $PKI/ca.crt}}]
users: [{name: $1, user: {client-certificate: $PKI/$1.crt, client-key: $PKI/$1.key}}]
contexts: [{name: node, context: {cluster: node, user: $1}}]
CONFIG
}

identities() {
  key ca
  openssl req -x509 -new -key "$PKI/ca.key" -subj /CN=node -days 2 -out "$PKI/ca.crt"
  certificate apiserver /CN=kube-apiserver \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:$API,IP:$ADDRESS"
  certificate node /O=system:nodes/CN=system:node:node "DNS:node,IP:$ADDRESS"
  certificate admin /O=system:masters/CN=admin
  certificate controller-manager /CN=system:kube-controller-manager
  certificate scheduler /CN=system:kube-scheduler
  certificate proxy /CN=system:kube-proxy
  local name
  for name in node admin controller-manager scheduler proxy; do kubeconfig $name; done
  openssl genrsa -out "$PKI/sa.key" 2048 2>/dev/null
  openssl rsa -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2>/dev/null
}

control_plane() {
  start etcd "$ETCD" --data-dir "$E2E_NODE/var/lib/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster default=http://127.0.0.1:2380
  # The test stops and starts it, and the scheduler with it: these files say how.
  cat >"$E2E_NODE/apiserver.sh" <<COMMAND
exec "$KUBE_APISERVER" --etcd-servers http://127.0.0.1:2379 --bind-address "$ADDRESS" --advertise-address "$ADDRESS" \
  --secure-port 6443 --service-cluster-ip-range "$SERVICES" --allow-privileged --authorization-mode Node,RBAC \
  --enable-admission-plugins NodeRestriction --client-ca-file "$PKI/ca.crt" \
  --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
  --kubelet-certificate-authority "$PKI/ca.crt" --kubelet-client-certificate "$PKI/admin.crt" --kubelet-client-key "$PKI/admin.key" \
  --kubelet-preferred-address-types InternalIP --service-account-issuer https://kubernetes.default.svc.cluster.local \
  --service-account-key-file "$PKI/sa.pub" --service-account-signing-key-file "$PKI/sa.key" --profiling=false \
  >>"$LOG/apiserver.log" 2>&1 </dev/null
COMMAND
  start apiserver bash "$E2E_NODE/apiserver.sh"
  # The grace period outlasts the outage that the test makes of the API server: else it is chance whether the node is taken for dead
  # after it, and every Service, DNS among them, without its Pods for a while.
  start controller-manager "$KUBE_CONTROLLER_MANAGER" --kubeconfig "$PKI/controller-manager.conf" --bind-address 127.0.0.1 \
    --service-account-private-key-file "$PKI/sa.key" --root-ca-file "$PKI/ca.crt" --use-service-account-credentials \
    --leader-elect=false --node-monitor-grace-period 10m --controllers '*,-bootstrapsigner,-tokencleaner' --flex-volume-plugin-dir /var/lib/kubelet/volume-plugins
  cat >"$E2E_NODE/scheduler.sh" <<COMMAND
exec "$KUBE_SCHEDULER" --kubeconfig "$PKI/scheduler.conf" --bind-address 127.0.0.1 --leader-elect=false \
  >>"$LOG/scheduler.log" 2>&1 </dev/null
COMMAND
  start scheduler bash "$E2E_NODE/scheduler.sh"
}

container_runtime() {
  cat >"$E2E_NODE/cni/10-pods.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
 {"type": "ptp", "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam",
   "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  # `restrict_oom_score_adj`: else a machine without CAP_SYS_RESOURCE makes no sandbox.
  cat >"$E2E_NODE/containerd.toml" <<TOML
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:e2e"
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  # Empty: the test says of its registry how it is reached.
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$E2E_NODE/registries"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$E2E_NODE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
TOML
  start containerd containerd --config "$E2E_NODE/containerd.toml"
  until_true 30 containerd test -S /run/containerd/containerd.sock
  until_true 30 containerd ctr version
  local image
  for image in $IMAGES; do
    ctr --namespace k8s.io images import "$image" >>"$LOG/images.log" 2>&1 || {
      echo "error: containerd does not take the image $image:" >&2
      tail -n 3 "$LOG/images.log" >&2
      exit 1
    }
  done
}

kubelet_and_proxy() {
  # With `syncFrequency: 5s`, what a changed ConfigMap or Secret says is in a running Pod 5 s later; a kubelet as it comes takes up to
  # a minute and a half.
  cat >"$E2E_NODE/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: $PKI/ca.crt}}
tlsCertFile: $PKI/node.crt
tlsPrivateKeyFile: $PKI/node.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: $CGROUP
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
resolvConf: ""
clusterDNS: [$DNS]
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
volumePluginDir: /var/lib/kubelet/volume-plugins
syncFrequency: ${KUBELET_SYNC:-5s}
YAML
  cat >"$E2E_NODE/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: node
clientConnection: {kubeconfig: $PKI/proxy.conf}
clusterCIDR: $PODS
mode: iptables
iptables: {minSyncPeriod: 0s}
oomScoreAdj: 0
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
  start kubelet "$KUBELET" --config "$E2E_NODE/kubelet.yaml" --kubeconfig "$PKI/node.conf" --hostname-override node --node-ip "$ADDRESS"
  start kube-proxy "$KUBE_PROXY" --config "$E2E_NODE/proxy.yaml"
}

mounts_and_network
identities
control_plane
container_runtime
say "containerd has the images"
export KUBECONFIG=$PKI/admin.conf
until_true 60 apiserver "$KUBECTL" get --raw /readyz
say "the API server is ready"
kubelet_and_proxy
"$KUBECTL" apply --server-side -f "$here/../manifests/coredns.yaml" >/dev/null
until_true 60 kubelet "$KUBECTL" get node node
until_true 60 kubelet "$KUBECTL" wait --for=condition=Ready node/node --timeout=60s
until_true 90 kubelet "$KUBECTL" --namespace kube-system rollout status deployment/coredns --timeout=90s
say "the node is ready, CoreDNS answers"
"$@"
