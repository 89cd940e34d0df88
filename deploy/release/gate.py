#!/usr/bin/env python3
"""One version: the tag, the program, the chart, the manifests and the changelog must all say the same before anything is built.

usage: gate.py TAG        one line per problem, exit code 1 if there is any; else the version
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "ghcr.io/scrapetarget/scrapetarget-exporter"
SEMVER = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def found(path, pattern):
    """What the only group of a pattern matches at its first place in a file."""
    match = re.search(pattern, read(path), re.MULTILINE)
    return match[1] if match else "nothing"


def problems(tag):
    if not re.fullmatch("v" + SEMVER, tag):
        # A plus is not allowed in the tag of an image.
        yield f"tag {tag}: write v and a semantic version, such as v1.2.3 or v1.2.3-rc.1"
        return
    version = tag[1:]
    chart = "charts/scrapetarget-exporter/Chart.yaml"
    places = [
        ("Cargo.toml", "version", r'^version = "([^"]+)"'),
        ("Cargo.lock", "version of scrapetarget-exporter", r'^name = "scrapetarget-exporter"\nversion = "([^"]+)"'),
        (chart, "version", r"^version: (\S+)$"),
        (chart, "appVersion", r'^appVersion: "?([^"\s]+)"?$'),
    ]
    for path, what, pattern in places:
        if (is_there := found(path, pattern)) != version:
            yield f"{path}: {what} is {is_there}, the tag is {tag}"
    for path in [chart, "deploy/scrapetarget-exporter.yaml", "deploy/simulated/servers.yaml"]:
        images = re.findall(rf"{re.escape(IMAGE)}[:@][^\s\"']+", read(path))
        if not images:
            yield f"{path}: no image {IMAGE}"
        for image in sorted({image for image in images if image != f"{IMAGE}:{version}"}):
            yield f"{path}: the image is {image}, not {IMAGE}:{version}"
    changelog = subprocess.run([sys.executable, ROOT / "deploy/release/changelog.py", "check", version], capture_output=True, text=True, check=False)
    yield from (changelog.stdout + changelog.stderr).splitlines()


def main(arguments):
    if len(arguments) != 1:
        raise SystemExit(__doc__)
    wrong = list(problems(arguments[0]))
    for problem in wrong:
        print(f"error: {problem}", file=sys.stderr)
    if not wrong:
        print(arguments[0][1:])
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
