#!/usr/bin/env bash
# Installs mediasoup at a version, with its worker process, and what the tests of the agent need besides.
# Usage: build.sh VERSION FOLDER
#
# From 3.9 on mediasoup downloads its worker, or builds it, by itself. Up to 3.8 the package holds the sources of everything, and
# this script builds them; it takes about eight minutes on two cores. FOLDER appears only when all of it is there.
set -euo pipefail

version=$1 folder=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$folder.new

say() { echo "mediasoup $version: $*" >&2; }
fail() { say "error: $*"; exit 1; }

older_than_3_9() { [[ $version =~ ^3\.[0-8]\. ]]; }

# Everything at the versions of the lock, but mediasoup itself may be another one.
install_packages() {
  cp "$here"/package.json "$here"/package-lock.json .
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
  [ "$(node -p 'require("mediasoup/package.json").version')" = "$version" ] \
    || npm install --ignore-scripts --no-audit --no-fund --loglevel=error "mediasoup@$version" >&2
}

# What its sources need to be built by today's tools.
mend_sources() {
  local abseil=deps/libwebrtc/deps/abseil-cpp/abseil-cpp/absl
  # SIGSTKSZ is no constant any more, and of another type than the number it is compared with.
  sed -i 's/std::max(SIGSTKSZ, /std::max<size_t>(SIGSTKSZ, /' "$abseil/debugging/failure_signal_handler.cc"
  # The generator for Python 2 gives way to the same one for Python 3.
  rm -rf deps/gyp/pylib
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target deps/gyp/pylib -r "$here/gyp.txt" >&2
}

build_worker() {
  python3 scripts/configure.py -R mediasoup-worker >configure.log 2>&1 || { tail -n 20 configure.log >&2; fail "its build cannot be configured"; }
  # GCC names hundreds of things in old sources that nobody here will change: what matters is why it stops.
  make -C out -j"$(nproc)" BUILDTYPE=Release CFLAGS=-w CXXFLAGS=-w >make.log 2>&1 || { grep -A 5 -E 'error|Error' make.log | tail -n 40 >&2; fail "its worker cannot be built"; }
}

# Of nearly a gigabyte, one file is needed.
keep_only_the_worker() {
  mv out/Release/mediasoup-worker ../mediasoup-worker
  find . -mindepth 1 -delete
  mkdir -p out/Release
  mv ../mediasoup-worker out/Release/
}

rm -rf "$work"
# What did not work would only fill the cache.
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
cd "$work"
say "installing"
install_packages
if older_than_3_9; then
  say "building its worker, which takes some minutes"
  (cd node_modules/mediasoup/worker && mend_sources && build_worker && keep_only_the_worker)
else
  say "fetching its worker"
  npm rebuild --foreground-scripts mediasoup >&2 || fail "its worker can neither be downloaded nor built"
fi
node -e 'require("mediasoup").createWorker().then((worker) => worker.close(), (e) => { console.error(e); process.exit(1); })' \
  || fail "its worker does not start"
rm -rf "$folder"
mv "$work" "$folder"
