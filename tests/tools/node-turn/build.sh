#!/usr/bin/env bash
# Installs node-turn, with the program that runs it.
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
cp "$here"/package.json "$here"/package-lock.json "$here"/server.js .
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
node -e 'require("node-turn")' || { echo "node-turn: error: it cannot be loaded" >&2; exit 1; }
rm -rf "$folder"
mv "$work" "$folder"
