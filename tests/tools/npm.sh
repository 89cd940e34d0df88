#!/usr/bin/env bash
# Installs the npm packages that TOOL/package.json names, at the versions of its lock, with the program in TOOL that runs them.
# Usage: npm.sh TOOL FOLDER
#
# FOLDER appears only when all of it is there.
set -euo pipefail

tool=$(cd "$(dirname "$0")/$1" && pwd) folder=$2
work=$folder.new

rm -rf "$work"
# What did not work would only fill the cache.
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
cp "$tool"/* "$work"
cd "$work"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
for package in $(node -p 'Object.keys(require("./package.json").dependencies).join(" ")'); do
  node --input-type=module -e "await import('$package')" || { echo "$package: error: it cannot be loaded" >&2; exit 1; }
done
rm -rf "$folder"
mv "$work" "$folder"
