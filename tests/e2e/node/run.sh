#!/usr/bin/env bash
# Runs a command in a real Kubernetes cluster of one node, and takes the cluster down after it: run.sh COMMAND...
#
# The node has process, mount, network, IPC and host name namespaces of its own. Its first process is init.sh; when that ends, the
# kernel ends every other process and takes every mount and interface along. What it writes is in one folder. So nothing is left,
# whether the command succeeds, fails, or is killed.
#
# Programs of Kubernetes come by the variables that `make` sets, images as docker archives in IMAGES; the rest is in Debian's packages.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)

: "${IMAGES:?must name the archives of the images}"
missing=()
for program in unshare setpriv ip iptables openssl containerd containerd-shim-runc-v2 ctr runc; do
  command -v "$program" >/dev/null || missing+=("$program")
done
for plugin in ptp host-local portmap loopback; do
  [ -x "/usr/lib/cni/$plugin" ] || missing+=("/usr/lib/cni/$plugin")
done
for variable in ETCD KUBE_APISERVER KUBE_CONTROLLER_MANAGER KUBE_SCHEDULER KUBELET KUBE_PROXY KUBECTL PAUSE; do
  [ -x "${!variable:-}" ] || missing+=("$variable=${!variable:-}")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "error: a node cannot be made here, this is missing: ${missing[*]}" >&2
  exit 1
fi
for path in "$here" "$PWD" "$HOME" "${CARGO_HOME:-$HOME}" "${TMPDIR:-/tmp}" "$ETCD" "$KUBELET" $IMAGES; do
  case $(realpath "$path") in
    /var/* | /run/*) echo "error: $path is below /var or /run, of which a node has its own" >&2; exit 1 ;;
  esac
done
[ "$(id -u)" = 0 ] || { echo "error: a node needs root, for its namespaces and cgroups" >&2; exit 1; }

E2E_NODE=$(mktemp -d -t scrapetarget-node.XXXXXX)
CGROUP=/${E2E_NODE##*/}
export E2E_NODE CGROUP

# The hierarchies of cgroup v1, or the one of v2.
hierarchies() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo /sys/fs/cgroup; else printf '%s\n' /sys/fs/cgroup/*/; fi
}

clean_up() {
  local hierarchy left
  for _ in {1..100}; do
    left=
    for hierarchy in $(hierarchies); do
      [ ! -d "$hierarchy$CGROUP" ] || find "$hierarchy$CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null || left=yes
    done
    [ -n "$left" ] || break
    sleep 0.1
  done
  rm -rf "$E2E_NODE"
}

# Cleans up also after this script was killed, when no trap runs. The lock is held by this script and by the node.
exec {alive}>"$E2E_NODE/alive"
flock "$alive"
(
  trap '' INT TERM HUP
  exec {alive}>&-
  exec setsid --fork bash -c "$(declare -f hierarchies clean_up); flock '$E2E_NODE/alive' true; clean_up" >/dev/null 2>&1 </dev/null
)

for hierarchy in $(hierarchies); do
  mkdir "$hierarchy$CGROUP" 2>/dev/null || true
done
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  # What kubelet wants of the one hierarchy of v2, which hands down only what it is told to.
  for controller in cpu cpuset memory pids; do
    echo "+$controller" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
    grep -qw "$controller" "/sys/fs/cgroup$CGROUP/cgroup.controllers" || missing+=("$controller")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "error: a node cannot be made here, these cgroup controllers cannot be had: ${missing[*]}" >&2
    exit 1
  fi
  echo +hugetlb 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
fi

setpriv --pdeathsig KILL \
  unshare --fork --kill-child --pid --mount --mount-proc --net --ipc --uts "$here/init.sh" "$@" &
node=$!
trap 'kill -KILL $node 2>/dev/null || true' INT TERM HUP EXIT
wait "$node"
