#!/usr/bin/env bash
# The software bill of materials (CycloneDX) of the program, from Cargo.lock, for each architecture. Needs cargo-cyclonedx.
#
# usage: sbom.sh VERSION FOLDER
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

[ $# = 2 ] || { echo "usage: $0 VERSION FOLDER" >&2; exit 2; }
version=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
# It writes beside every Cargo.toml of the workspace.
work=$(mktemp -d)
trap 'rm -rf "$work"; rm -f "$root/.sbom.json" "$root/simulators/.sbom.json"' EXIT

cd "$root"
for pair in amd64=x86_64 arm64=aarch64; do
  cargo cyclonedx --quiet --format json --spec-version 1.5 --target "${pair#*=}-unknown-linux-gnu" --override-filename .sbom
  mv .sbom.json "$folder/scrapetarget-exporter-$version-linux-${pair%%=*}.cdx.json"
done
