#!/usr/bin/env bash
# Installs servers that issue tokens and one that checks them, with the program that runs them.
# Usage: build.sh FOLDER
#
# FOLDER appears only when all of it is there.
set -euo pipefail

folder=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$folder.new

rm -rf "$work"
# What did not work would only fill the cache.
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
cd "$work"
cp "$here"/package.json "$here"/package-lock.json "$here"/server.mjs .
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
for package in express express-oauth2-jwt-bearer oauth2-mock-server oidc-provider; do
  node --input-type=module -e "await import('$package')" || { echo "$package: error: it cannot be loaded" >&2; exit 1; }
done
rm -rf "$folder"
mv "$work" "$folder"
