#!/usr/bin/env python3
"""Gives a pushed image its tag, with the same bytes and so the same digest. A tag is never moved: one that is there must be this image.

usage: tag.py REPOSITORY@DIGEST TAG
       tag.py --there REPOSITORY TAG     prints the digest that has the tag, or nothing

REGISTRY_USER and REGISTRY_PASSWORD are for a registry that asks; PLAIN_HTTP=1 is for one on loopback.
"""

import base64
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

# An image of several architectures, and a chart.
TYPES = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json"
)


def request(method, url, headers, body=None):
    asked = urllib.request.Request(url, method=method, headers=headers, data=body)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def authorization(base, path):
    """The header that the registry asks for: none, or a token for this repository."""
    status, headers, _ = request("GET", f"{base}/v2/", {})
    if status != 401:
        return {}
    field = dict(re.findall(r'(\w+)="([^"]*)"', headers["WWW-Authenticate"]))
    query = urllib.parse.urlencode({"service": field.get("service", ""), "scope": f"repository:{path}:pull,push"})
    login = base64.b64encode(f"{os.environ['REGISTRY_USER']}:{os.environ['REGISTRY_PASSWORD']}".encode()).decode()
    status, _, body = request("GET", f"{field['realm']}?{query}", {"Authorization": f"Basic {login}"})
    if status != 200:
        raise SystemExit(f"error: the registry gives no token: status {status}")
    return {"Authorization": f"Bearer {json.loads(body)['token']}"}


def main(arguments):
    asked = arguments[:1] == ["--there"]
    if len(arguments) != 2 + asked or not asked and "@sha256:" not in arguments[0]:
        raise SystemExit(__doc__)
    name, _, digest = arguments[asked].partition("@")
    tag = arguments[-1]
    registry, path = name.split("/", 1)
    base = f"{'http' if os.environ.get('PLAIN_HTTP') else 'https'}://{registry}"
    headers = authorization(base, path) | {"Accept": TYPES}
    status, there, _ = request("HEAD", f"{base}/v2/{path}/manifests/{tag}", headers)
    if status not in (200, 404):
        raise SystemExit(f"error: the registry does not say whether {name}:{tag} is there: status {status}")
    if asked:
        print(there["Docker-Content-Digest"] if status == 200 else "")
        return
    if status == 200:
        if there["Docker-Content-Digest"] != digest:
            raise SystemExit(f"error: {name}:{tag} is there already, as {there['Docker-Content-Digest']}: release the next version")
        return
    status, of, manifest = request("GET", f"{base}/v2/{path}/manifests/{digest}", headers)
    if status != 200:
        raise SystemExit(f"error: {name}@{digest} cannot be read: status {status}")
    headers["Content-Type"] = of["Content-Type"]
    status, made, _ = request("PUT", f"{base}/v2/{path}/manifests/{tag}", headers, manifest)
    if status != 201 or made["Docker-Content-Digest"] != digest:
        raise SystemExit(f"error: {name}:{tag} cannot be written: status {status}")


if __name__ == "__main__":
    main(sys.argv[1:])
