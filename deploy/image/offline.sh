#!/usr/bin/env bash
# Builds the image if no registry is reachable: the last stage of the Dockerfile, with an existing program, on a base with the certificate
# authorities of this machine. The archive can be loaded by `docker load`, `podman load` and `ctr images import`.
#
# usage: offline.sh PROGRAM NAME:TAG ARCHIVE [REVISION]
#
# PLATFORM names what the program is for, if it is not this machine: linux/arm64.
set -euo pipefail
# Every user must be able to read the files of the image, regardless of the umask of this user.
umask 022

if [ $# -lt 3 ] || [[ ${2##*/} != *:* ]]; then
  echo "usage: $0 PROGRAM NAME:TAG ARCHIVE [REVISION]" >&2
  exit 2
fi
program=$1 name=$2 archive=$3 revision=${4:-unknown}
source=$(cd "$(dirname "$0")/../.." && pwd)
authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

[ -r "$authorities" ] || { echo "error: $authorities is missing: install ca-certificates, or set SSL_CERT_FILE" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work"/base/{etc/ssl/certs,home/nonroot,tmp} "$work/build/licenses"
chmod 1777 "$work/base/tmp"
install -m 644 "$authorities" "$work/base/etc/ssl/certs/ca-certificates.crt"
printf '%s\n' root:x:0:0:root:/root:/sbin/nologin nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin > "$work/base/etc/passwd"
printf '%s\n' root:x:0: nonroot:x:65532: > "$work/base/etc/group"
install -m 755 "$program" "$work/build/scrapetarget-exporter"
install -m 644 "$source/LICENSE" "$work/build/licenses/"
gzip -9n < "$source/THIRD-PARTY" > "$work/build/licenses/THIRD-PARTY.gz"

# Separate storage, so that the build does not depend on existing images. One date for all files makes layers reproducible.
buildah() {
  command buildah --log-level error --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"
}
build() {
  buildah build --quiet --isolation chroot --format docker --timestamp 0 ${PLATFORM:+--platform "$PLATFORM"} "$@" > /dev/null
}
build --tag localhost/base:1 --file - "$work/base" <<< $'FROM scratch\nENV PATH=/usr/local/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\nCOPY . /'
build --tag "$name" --build-arg BASE=localhost/base:1 --build-context build="$work/build" \
  --build-arg VERSION="${name##*:}" --build-arg REVISION="$revision" "$source"
mkdir -p "$(dirname "$archive")"
rm -f "$archive"
buildah push --quiet "$name" "docker-archive:$archive:$name"
