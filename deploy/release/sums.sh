#!/usr/bin/env bash
# SHA256SUMS of everything in a folder. One signature over it covers all that a release has besides images.
#
# usage: sums.sh FOLDER
set -euo pipefail

[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
cd "$1"
rm -f SHA256SUMS SHA256SUMS.*
find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -r -d '\n' sha256sum -- > ../SHA256SUMS.new
[ -s ../SHA256SUMS.new ] || { echo "error: $1 is empty" >&2; exit 1; }
mv ../SHA256SUMS.new SHA256SUMS
