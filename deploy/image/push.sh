#!/usr/bin/env bash
# Pushes images under one index and a tag, from archives as offline.sh makes them, one for each architecture. Needs no Docker, with which
# deploy/release/image.sh builds and pushes in one step.
#
# usage: push.sh REPOSITORY:TAG ARCHIVE...
#
# PLAIN_HTTP=1 is for a registry on loopback. Prints REPOSITORY@DIGEST.
set -euo pipefail

if [ $# -lt 2 ] || [[ ${1##*/} != *:* ]]; then
  echo "usage: $0 REPOSITORY:TAG ARCHIVE..." >&2
  exit 2
fi
name=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Separate storage, so that nothing depends on existing images.
buildah() { command buildah --log-level error --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
buildah manifest create index > /dev/null
for archive in "$@"; do
  image=$(buildah pull --quiet "docker-archive:$archive")
  buildah manifest add index "$image" > /dev/null
done
buildah manifest push --quiet --all ${PLAIN_HTTP:+--tls-verify=false} --digestfile "$work/digest" index "docker://$name" > /dev/null
echo "${name%:*}@$(cat "$work/digest")"
