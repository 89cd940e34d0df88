#!/usr/bin/env bash
# Unpacks programs from Debian packages, without installing them: no service is started, and no root is needed once apt knows its packages.
# Usage: unpack.sh FOLDER
#
# apt verifies each package by the signed list of the archive. FOLDER appears only when every program in it starts.
set -euo pipefail

folder=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$folder.new

fail() { echo "programs from Debian packages: error: $*" >&2; exit 1; }

rm -rf "$work"
# What did not work would only fill the cache.
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/packages"
cd "$work/packages"
mapfile -t packages < <(sed -n 's/^\([a-z][^ ]*\) \(.*\)/\1=\2-*/p' "$here"/packages.txt)
# As root, apt would hand the download to a user who may not write here.
download() { apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}" >&2; }
# On a new machine the lists are empty, or so old that what they name is gone.
download || { [ "$(id -u)" = 0 ] && apt-get update -qq >&2 && download; } || fail "apt cannot download ${packages[*]}"
for package in *.deb; do
  dpkg-deb --extract "$package" ..
done
cd ..
rm -rf packages
for program in usr/bin/prometheus-blackbox-exporter usr/sbin/nginx; do
  # nginx prints its version with a small letter.
  "$program" "$([ "${program##*/}" = nginx ] && echo -v || echo --version)" >/dev/null 2>&1 \
    || fail "$program does not start: $(ldd "$program" | grep 'not found' || true)"
done
rm -rf "$folder"
mv "$work" "$folder"
