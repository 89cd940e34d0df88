#!/usr/bin/env bash
# Builds the image for both architectures by the Dockerfile and pushes it, under its digest alone: it gets its tag (tag.py) only when it
# has been tested. Needs Docker with buildx, logged in to the registry. deploy/image/offline.sh takes its place where there is no registry
# of base images.
#
# usage: image.sh REPOSITORY VERSION REVISION FOLDER
#
# FOLDER gets the programs as program-ARCHITECTURE. Prints REPOSITORY@DIGEST.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

[ $# = 4 ] || { echo "usage: $0 REPOSITORY VERSION REVISION FOLDER" >&2; exit 2; }
repository=$1 version=$2 revision=$3 folder=$4
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Attestations of BuildKit would make the index another one; those of the release are attached afterwards.
build=(docker buildx build --platform linux/amd64,linux/arm64 --provenance false --sbom false
  --build-arg VERSION="$version" --build-arg REVISION="$revision" "$root")
# One build, so that the programs are those of the image.
"${build[@]}" --metadata-file "$work/metadata.json" --output "type=image,name=$repository,push-by-digest=true,push=true" \
  --output "type=local,dest=$work/roots" >&2
for architecture in amd64 arm64; do
  install -m 755 "$work/roots/linux_$architecture/usr/local/bin/scrapetarget-exporter" "$folder/program-$architecture"
done
digest=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["containerimage.digest"])' "$work/metadata.json")
echo "$repository@$digest"
