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
mapfile -t packages < <(sed -n 's/^\([a-z][^ ]*\) \(.*\*\)$/\1=\2/p;t;s/^\([a-z][^ ]*\) \(.*\)/\1=\2-*/p' "$here"/packages.txt)
# As root, apt would hand the download to a user who may not write here.
download() { apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}" >&2; }
# On a new machine the lists are empty, or so old that what they name is gone.
download || { [ "$(id -u)" = 0 ] && apt-get update -qq >&2 && download; } || fail "apt cannot download ${packages[*]}"
for package in *.deb; do
  dpkg-deb --extract "$package" ..
done
cd ..
rm -rf packages
# Each finds libraries that are not installed beside itself.
for libraries in usr/lib/*-linux-gnu; do
  export LD_LIBRARY_PATH=$PWD/$libraries
done
while read -r program option; do
  "$program" "$option" >/dev/null 2>&1 || fail "$program does not start: $(ldd "$program" | grep 'not found' || true)"
done <<'PROGRAMS'
usr/bin/prometheus-apache-exporter --version
usr/bin/prometheus-blackbox-exporter --version
usr/bin/prometheus-elasticsearch-exporter --version
usr/bin/prometheus-mysqld-exporter --version
usr/bin/prometheus-nginx-exporter --version
usr/bin/prometheus-node-exporter --version
usr/bin/prometheus-postgres-exporter --version
usr/bin/prometheus-process-exporter --version
usr/bin/prometheus-redis-exporter --version
usr/bin/redis-server --version
usr/bin/turnserver --version
usr/lib/postgresql/15/bin/initdb --version
usr/lib/postgresql/15/bin/postgres --version
usr/sbin/apache2 -v
usr/sbin/mariadbd --version
usr/sbin/nginx -v
PROGRAMS
rm -rf "$folder"
mv "$work" "$folder"
