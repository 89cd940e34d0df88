#!/usr/bin/env bash
# The chart as it is published: with its licence, and with what Artifact Hub wants to know of this version.
#
# usage: chart.sh package VERSION FOLDER     writes FOLDER/scrapetarget-exporter-VERSION.tgz
#        chart.sh push ARCHIVE oci://REGISTRY/FOLDER     prints REGISTRY/FOLDER/scrapetarget-exporter@DIGEST
#
# HELM names the program; REGISTRY_USER, REGISTRY_PASSWORD and PLAIN_HTTP are as for tag.py.
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
    # The same sources make the same bytes, and so the same digest.
    find "$work" -exec touch --date @0 {} +
    "$helm" package "$work/scrapetarget-exporter" --version "$version" --app-version "$version" --destination "$folder" >&2
    touch --date @0 "$folder/scrapetarget-exporter-$version.tgz"
    ;;
  push)
    [ $# = 3 ] || { sed -n '4,5p' "$0" >&2; exit 2; }
    repository=${3#oci://}/scrapetarget-exporter version=${2##*/scrapetarget-exporter-}
    version=${version%.tgz}
    # Helm gives the tag with the push, and would move it.
    there=$("$here/tag.py" --there "$repository" "$version")
    if [ -n "$there" ]; then
      work=$(mktemp -d)
      trap 'rm -rf "$work"' EXIT
      "$helm" pull "oci://$repository" --version "$version" --destination "$work" ${PLAIN_HTTP:+--plain-http} > /dev/null 2>&1 || true
      cmp --silent "$2" "$work"/*.tgz || { echo "error: $repository:$version is there already, as $there: release the next version" >&2; exit 1; }
      echo "$repository@$there"
      exit
    fi
    said=$("$helm" push "$2" "$3" ${PLAIN_HTTP:+--plain-http} 2>&1) || { echo "$said" >&2; exit 1; }
    digest=$(grep -o 'sha256:[0-9a-f]\{64\}' <<< "$said" | head -n 1) || true
    [ -n "$digest" ] || { echo "error: helm names no digest: $said" >&2; exit 1; }
    echo "$repository@$digest"
    ;;
  *) sed -n '4,5p' "$0" >&2; exit 2 ;;
esac
