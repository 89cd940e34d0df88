#!/usr/bin/env bash
# Every step of a release on this machine, with a registry on loopback and a key of its own: what the workflow does with ghcr.io and with
# an identity. Then what must not work: another version, another program, another key. `make release-dry-run` runs it.
#
# usage: dry-run.sh amd64=PROGRAM [arm64=PROGRAM]
#
# HELM, COSIGN and REGISTRY name programs; QEMU one that runs programs of arm64, if there is one.
set -euo pipefail
umask 022
root=$(cd "$(dirname "$0")/../.." && pwd)

[[ ${1:-} == amd64=* ]] || { echo "usage: $0 amd64=PROGRAM [arm64=PROGRAM]" >&2; exit 2; }
programs=()
for pair in "$@"; do programs+=("${pair%%=*}=$(realpath "${pair#*=}")"); done
amd64=${programs[0]#*=}
for variable in HELM COSIGN REGISTRY; do
  [ -x "${!variable:-}" ] || { echo "error: $variable names no program: run \`make release-dry-run\`" >&2; exit 1; }
done
work=$(mktemp -d)
registry=
clean_up() {
  [ -z "$registry" ] || kill "$registry" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
step() { printf '\n## %s\n' "$*"; }
# refused COMMAND...: it must fail, and say why.
refused() {
  if "$@" > "$work/said" 2>&1; then
    echo "error: this succeeded, and must not: $*" >&2
    exit 1
  fi
  # The last line of a tool may say only that there was an error.
  sed -n '/^WARNING/d;/./{s/^/   refused: /;p;q}' "$work/said"
}

step "a checkout in which the changelog has the version"
# Of everything else, it is as it stands here.
checkout=$work/checkout release=$work/release
mkdir "$checkout" "$release"
(cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 -r ls -d 2>/dev/null | tar --create --no-recursion --files-from -) \
  | tar --extract --directory "$checkout"
cd "$checkout"
version=$(sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
steps=deploy/release
$steps/version.py "$version"

step "gate"
$steps/gate.py "v$version"
refused $steps/gate.py v99.0.0
refused $steps/gate.py "$version"

step "registry"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$work/registry.yml" <<YAML
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: $work/registry } }
http: { addr: "127.0.0.1:$port" }
YAML
OTEL_TRACES_EXPORTER=none "$REGISTRY" serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
registry=$!
for _ in {1..300}; do
  if python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/v2/', timeout=5)" 2>/dev/null; then break; fi
  kill -0 "$registry" 2>/dev/null || { cat "$work/registry.log" >&2; exit 1; }
  sleep 0.1
done
export PLAIN_HTTP=1 COSIGN_PASSWORD=
repository=127.0.0.1:$port/scrapetarget/scrapetarget-exporter

step "images, under one index"
archives=()
for pair in "${programs[@]}"; do
  architecture=${pair%%=*}
  PLATFORM=linux/$architecture deploy/image/offline.sh "${pair#*=}" "localhost/$architecture:$version" "$work/$architecture.tar" dry-run
  archives+=("$work/$architecture.tar")
done
image=$(deploy/image/push.sh "$repository:candidate" "${archives[@]}")
echo "$image"

step "archives"
$steps/archives.sh "$version" "$release" "${programs[@]}"
refused $steps/archives.sh "$version" "$work/none" "arm64=$amd64"
refused $steps/archives.sh "$version" "$work/none" "amd64=$(command -v bash)"
tar --extract --gzip --directory "$work" --file "$release/scrapetarget-exporter-$version-linux-amd64.tar.gz"
"$work/scrapetarget-exporter-$version-linux-amd64/scrapetarget-exporter" --version
if [ -x "${QEMU:-}" ] && [ $# -gt 1 ]; then "$QEMU" "${programs[1]#*=}" --version; fi
# Packed a second time, they are the same.
$steps/archives.sh "$version" "$work/again" "${programs[@]}"
(cd "$release" && sha256sum -- *.tar.gz) | (cd "$work/again" && sha256sum --check --quiet --strict)

step "software bills of materials"
$steps/sbom.sh "$version" "$release"
ls "$release"/*.cdx.json | sed 's,.*/,,'

step "chart"
$steps/chart.sh package "$version" "$release"
charts=oci://127.0.0.1:$port/scrapetarget/charts
chart=$($steps/chart.sh push "$release/scrapetarget-exporter-$version.tgz" "$charts")
echo "$chart"
# Packed and pushed a second time, it is the same.
$steps/chart.sh package "$version" "$work/again"
[ "$($steps/chart.sh push "$work/again/scrapetarget-exporter-$version.tgz" "$charts")" = "$chart" ]
oci=oci://127.0.0.1:$port/scrapetarget/charts/scrapetarget-exporter
"$HELM" show chart --plain-http "$oci" --version "$version" | grep -A 1 'artifacthub.io/changes' | head -n 1
"$HELM" template scrapetarget-exporter --plain-http "$oci" --version "$version" \
  --set-string "image.registry=127.0.0.1:$port,image.repository=scrapetarget/scrapetarget-exporter,image.digest=${image##*@}" > "$work/rendered.yaml"
grep -q "image: .*$image" "$work/rendered.yaml"

step "signatures"
(cd "$work" && "$COSIGN" generate-key-pair --output-key-prefix ours && "$COSIGN" generate-key-pair --output-key-prefix other) 2>/dev/null
export COSIGN_KEY=$work/ours.key COSIGN_PUBLIC_KEY=$work/ours.pub
refused $steps/verify.sh artifact "v$version" "$image"
refused $steps/sign.sh artifact "$repository:candidate"
$steps/sign.sh artifact "$image" "$chart" 2> "$work/signed" || { cat "$work/signed" >&2; exit 1; }
for architecture in amd64 arm64; do
  $steps/sign.sh sbom "$release/scrapetarget-exporter-$version-linux-$architecture.cdx.json" "$image" 2> "$work/signed" || { cat "$work/signed" >&2; exit 1; }
done
$steps/sums.sh "$release"
$steps/sign.sh file "$release/SHA256SUMS" 2> "$work/signed" || { cat "$work/signed" >&2; exit 1; }
$steps/verify.sh artifact "v$version" "$image" "$chart"
$steps/verify.sh sbom "v$version" "$image"
$steps/verify.sh file "v$version" "$release/SHA256SUMS"
(cd "$release" && sha256sum --check --quiet --strict SHA256SUMS)
echo "image, chart, bills of materials and SHA256SUMS are verified"

step "tag"
$steps/tag.py "$image" "$version"
$steps/tag.py "$image" "$version"
refused $steps/tag.py "$repository@sha256:$(printf '%064d' 0)" "$version"
buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs pull --quiet --tls-verify=false "$repository:$version" > /dev/null

step "what is not ours, and what was changed afterwards"
COSIGN_PUBLIC_KEY=$work/other.pub refused $steps/verify.sh artifact "v$version" "$image"
COSIGN_PUBLIC_KEY=$work/other.pub refused $steps/verify.sh artifact "v$version" "$chart"
COSIGN_PUBLIC_KEY=$work/other.pub refused $steps/verify.sh file "v$version" "$release/SHA256SUMS"
sed -i '1s/^./x/' "$release/SHA256SUMS"
refused $steps/verify.sh file "v$version" "$release/SHA256SUMS"
# Another image, pushed over the one with our tag: the digest is another, and nobody has signed it.
deploy/image/offline.sh "$amd64" "localhost/amd64:$version" "$work/forged.tar" forged
forged=$(deploy/image/push.sh "$repository:$version" "$work/forged.tar")
refused $steps/verify.sh artifact "v$version" "$forged"
cp -R charts/scrapetarget-exporter "$work/forged"
echo '# forged' >> "$work/forged/values.yaml"
"$HELM" package "$work/forged" --version "$version" --destination "$work/forgery" > /dev/null
refused $steps/chart.sh push "$work/forgery/scrapetarget-exporter-$version.tgz" "$charts"
forged=$($steps/chart.sh push "$work/forgery/scrapetarget-exporter-$version.tgz" "oci://127.0.0.1:$port/scrapetarget/forgery")
refused $steps/verify.sh artifact "v$version" "$forged"

step "release notes"
$steps/changelog.py notes "$version" > "$work/notes.md"
grep '^## ' "$work/notes.md"
echo
echo "the release of $version can be made: $(ls "$release" | wc -l) files, one image, one chart"
