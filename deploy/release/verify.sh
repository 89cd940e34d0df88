#!/usr/bin/env bash
# Verifies what sign.sh has signed, as a user does: docs/publishing.md has the same commands. Nothing is printed but what is wrong.
#
# usage: verify.sh artifact TAG REFERENCE@DIGEST...
#        verify.sh sbom TAG REFERENCE@DIGEST
#        verify.sh file TAG FILE
#
# COSIGN names the program; with COSIGN_PUBLIC_KEY, for a dry run, that key must have signed. PLAIN_HTTP=1 is for a registry on loopback.
set -euo pipefail
cosign=${COSIGN:-cosign}

[ $# -ge 3 ] || { sed -n '4,6p' "$0" >&2; exit 2; }
what=$1 tag=$2
shift 2
if [ -n "${COSIGN_PUBLIC_KEY:-}" ]; then
  signer=(--key "$COSIGN_PUBLIC_KEY" --insecure-ignore-tlog)
else
  signer=(
    --certificate-identity "https://github.com/scrapetarget/scrapetarget-exporter/.github/workflows/release.yml@refs/tags/$tag"
    --certificate-oidc-issuer https://token.actions.githubusercontent.com
  )
fi
registry=(${PLAIN_HTTP:+--allow-http-registry})
said=$(mktemp)
trap 'rm -f "$said"' EXIT

case $what in
  artifact) command=(verify "${registry[@]}" "${signer[@]}" "$@") ;;
  sbom) command=(verify-attestation "${registry[@]}" "${signer[@]}" --type cyclonedx "$@") ;;
  file) command=(verify-blob "${signer[@]}" --bundle "$1.sigstore.json" "$1") ;;
  *) sed -n '4,6p' "$0" >&2; exit 2 ;;
esac
"$cosign" "${command[@]}" > "$said" 2>&1 || { cat "$said" >&2; exit 1; }
