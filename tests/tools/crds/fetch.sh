#!/usr/bin/env bash
# Takes CRDs out of the Go modules that bring them along; `files` beside this script names them.
# Usage: fetch.sh FOLDER
#
# FOLDER appears only when all of it is there.
set -euo pipefail

files=$(cd "$(dirname "$0")" && pwd)/files folder=$1
work=$folder.new

rm -rf "$work"
# What did not work would only fill the cache.
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
# Where there is no go.mod that the modules would have to agree with.
cd "$work"
while read -r sum module file; do
  read_only=$(go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  echo "$sum  $read_only/$file" | sha256sum --check --quiet >&2
  install -m 644 "$read_only/$file" "$work/"
done < <(sed '/^#/d' "$files")
rm -rf "$folder"
mv "$work" "$folder"
