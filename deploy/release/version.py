#!/usr/bin/env python3
"""Sets the version of the next release wherever it is written, and dates its changes in the changelog. Afterwards run `make generate`.

usage: version.py VERSION        such as 1.2.3, without a v
"""

import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"(?:0|[1-9]\d*)"
IDENTIFIER = rf"(?:{NUMBER}(?![0-9A-Za-z-])|\d*[A-Za-z-][0-9A-Za-z-]*)"
# Without build metadata: a plus is not allowed in the tag of an image.
SEMVER = rf"{NUMBER}\.{NUMBER}\.{NUMBER}(?:-{IDENTIFIER}(?:\.{IDENTIFIER})*)?"

CHART = "charts/scrapetarget-exporter/Chart.yaml"
# Where it stands once: the file, what it is the version of, what is before it.
FIELDS = [
    ("Cargo.toml", "version", r'\nversion = "'),
    ("Cargo.lock", "version of scrapetarget-exporter", r'\nname = "scrapetarget-exporter"\nversion = "'),
    (CHART, "version", r"\nversion: "),
    (CHART, "appVersion", r'\nappVersion: "?'),
]
# Files that name our image, or the tag of a release, once or more.
FILES = [
    CHART,
    "README.md",
    "README.ja.md",
    "deploy/simulated/servers.yaml",
    "docs/gitops.md",
    "docs/image.md",
    "tests/chart/adopted/blackbox-first-values.yaml",
    "tests/e2e/manifests/alerts.yaml",
    "tests/e2e/manifests/fiware.yaml",
    "tests/e2e/manifests/media.yaml",
]
BEFORE = r"/scrapetarget-exporter:|image\.tag=|--build-arg VERSION=|targetRevision: v|`appVersion`: `"


def one(before):
    return re.compile(f"({before})({SEMVER})")


def fields():
    """File, what, and the version there or nothing."""
    for path, what, before in FIELDS:
        match = one(before).search((ROOT / path).read_text(encoding="utf-8"))
        yield path, what, match[2] if match else "nothing"


def names(path):
    """Every version that a file names."""
    return [match[2] for match in one(BEFORE).finditer((ROOT / path).read_text(encoding="utf-8"))]


def change(path, edit):
    file = ROOT / path
    text = file.read_text(encoding="utf-8")
    file.write_text(edit(text), encoding="utf-8")


def dated(changelog, version):
    """The changelog with a heading for the version: that of its last candidate, else a new one below [Unreleased]."""
    if f"\n## [{version}]" in changelog:
        return changelog
    heading = f"## [{version}] - {datetime.datetime.now(datetime.UTC).date()}\n"
    released = re.search(r"^## \[(?!Unreleased\])([^\]]+)\].*\n", changelog, re.MULTILINE)
    if released and released[1].startswith(f"{version}-"):
        changelog = changelog.replace(released[0], "", 1)
    unreleased = "## [Unreleased]\n"
    return changelog.replace(unreleased, f"{unreleased}\n{heading}", 1)


def main(arguments):
    if len(arguments) != 1 or not re.fullmatch(SEMVER, arguments[0]):
        raise SystemExit(__doc__)
    version = arguments[0]
    for path, _, before in FIELDS:
        change(path, lambda text, before=before: one(before).sub(rf"\g<1>{version}", text, count=1))
    for path in FILES:
        change(path, lambda text: one(BEFORE).sub(rf"\g<1>{version}", text))
    change("CHANGELOG.md", lambda text: dated(text, version))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
