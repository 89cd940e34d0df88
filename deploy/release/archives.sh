#!/usr/bin/env bash
# The archives of a release, one for each architecture: the program with its licences. The same programs make the same bytes.
#
# usage: archives.sh VERSION FOLDER ARCHITECTURE=PROGRAM...
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

[ $# -ge 3 ] || { echo "usage: $0 VERSION FOLDER ARCHITECTURE=PROGRAM..." >&2; exit 2; }
version=$1 folder=$2
shift 2
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for pair in "$@"; do
  architecture=${pair%%=*} program=${pair#*=}
  "$here/elf.py" "$architecture" "$program"
  name=scrapetarget-exporter-$version-linux-$architecture
  mkdir "$work/$name"
  install -m 755 "$program" "$work/$name/scrapetarget-exporter"
  install -m 644 "$root/LICENSE" "$root/THIRD-PARTY" "$root/README.md" "$work/$name/"
  tar --create --directory "$work" --sort name --mtime @0 --owner 0 --group 0 --numeric-owner --format gnu "$name" \
    | gzip -9n > "$folder/$name.tar.gz"
done
