#!/usr/bin/env bash
# Installs the versions of Node.js that the tests of the agent go through, as FOLDER/16 and so on, and a newer mediasoup than the one that is
# built, without its worker, in FOLDER/node_modules.
# Usage: build.sh FOLDER
#
# npm takes those of this machine and leaves out, without a word, what it cannot have: so each is started. FOLDER appears only when all
# of them are there.
set -euo pipefail

folder=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$folder.new

fail() { echo "Node.js for the tests: error: $*" >&2; exit 1; }

rm -rf "$work"
# What did not work would only fill the cache.
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/npm"
cd "$work/npm"
cp "$here"/package.json "$here"/package-lock.json .
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
for major in $(sed -n 's/^ *"node\([0-9]*\)-.*/\1/p' package.json | sort -u); do
  mv node_modules/node"$major"-*/bin/node "../$major" || fail "version $major is not there for this machine"
  [[ $("../$major" --version) == v"$major".* ]] || fail "version $major does not start"
done
cd ..
# What is left of Node.js, headers and manuals, is as large as itself.
rm -rf npm/node_modules/node[0-9]* npm/node_modules/mediasoup/worker
mv npm/node_modules .
rm -rf npm
rm -rf "$folder"
mv "$work" "$folder"
