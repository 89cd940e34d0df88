#!/usr/bin/env bash
# Signs what is published. In the workflow without a key: the certificate names the workflow and the tag, and the signature is in the public
# log of Sigstore. With COSIGN_KEY, for a dry run, with that key and nothing else.
#
# usage: sign.sh artifact REFERENCE@DIGEST...     an image with those of all architectures, or a chart
#        sign.sh sbom FILE REFERENCE@DIGEST       attests a CycloneDX document to an image
#        sign.sh file FILE                        writes FILE.sigstore.json
#
# COSIGN names the program; PLAIN_HTTP=1 is for a registry on loopback.
set -euo pipefail
cosign=${COSIGN:-cosign}

usage() { sed -n '5,7p' "$0" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags=(--yes)
if [ -n "${COSIGN_KEY:-}" ]; then
  # No services: nothing leaves this machine.
  echo '{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogConfig": {}, "tsaConfig": {}}' > "$work/services.json"
  flags+=(--key "$COSIGN_KEY" --signing-config "$work/services.json")
fi
registry=(${PLAIN_HTTP:+--allow-http-registry})

digest() {
  [[ $1 == *@sha256:* ]] || { echo "error: $1 names no digest: a tag may be moved between the look and the signature" >&2; exit 2; }
}

case ${1:-} in
  artifact)
    shift
    [ $# -ge 1 ] || usage
    for reference in "$@"; do digest "$reference"; done
    "$cosign" sign "${flags[@]}" "${registry[@]}" --recursive "$@"
    ;;
  sbom)
    [ $# = 3 ] || usage
    digest "$3"
    "$cosign" attest "${flags[@]}" "${registry[@]}" --type cyclonedx --predicate "$2" "$3"
    ;;
  file)
    [ $# = 2 ] || usage
    "$cosign" sign-blob "${flags[@]}" --bundle "$2.sigstore.json" "$2" > "$work/signature"
    ;;
  *) usage ;;
esac
