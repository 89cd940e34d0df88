#!/usr/bin/env bash
# The chart as it is published: with its licence, and with what Artifact Hub wants to know of this version.
#
# usage: chart.sh package VERSION FOLDER     writes FOLDER/scrapetarget-exporter-VERSION.tgz
#        chart.sh push ARCHIVE oci://REGISTRY/FOLDER     prints REGISTRY/FOLDER/scrapetarget-exporter@DIGEST
#
# HELM names the program; PLAIN_HTTP=1 is for a registry on loopback.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
helm=${HELM:-helm}

case ${1:-} in
  package)
    [ $# = 3 ] || { sed -n '4,5p' "$0" >&2; exit 2; }
    version=$2 folder=$3
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cp -R "$root/charts/scrapetarget-exporter" "$work/"
    cp "$root/LICENSE" "$work/scrapetarget-exporter/"
    # `annotations` is the last field of the file; tests/release.rs holds it there.
    "$here/changelog.py" annotations "$version" | sed 's/^/  /' >> "$work/scrapetarget-exporter/Chart.yaml"
    mkdir -p "$folder"
    "$helm" package "$work/scrapetarget-exporter" --version "$version" --app-version "$version" --destination "$folder" >&2
    ;;
  push)
    [ $# = 3 ] || { sed -n '4,5p' "$0" >&2; exit 2; }
    said=$("$helm" push "$2" "$3" ${PLAIN_HTTP:+--plain-http} 2>&1) || { echo "$said" >&2; exit 1; }
    digest=$(grep -o 'sha256:[0-9a-f]\{64\}' <<< "$said" | head -n 1)
    [ -n "$digest" ] || { echo "error: helm names no digest: $said" >&2; exit 1; }
    echo "${3#oci://}/scrapetarget-exporter@$digest"
    ;;
  *) sed -n '4,5p' "$0" >&2; exit 2 ;;
esac
