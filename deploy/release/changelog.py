#!/usr/bin/env python3
"""What a release takes from CHANGELOG.md: its notes for people, and annotations of the chart for Artifact Hub. Nothing is written but
standard output.

usage: changelog.py check VERSION         one line per problem, exit code 1 if there is any
       changelog.py notes VERSION         Markdown: what breaks, what must be done, what is new
       changelog.py annotations VERSION   YAML, for `annotations` in Chart.yaml
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What Keep a Changelog names and Artifact Hub knows, in the order of the notes: first what somebody may have to act on.
KINDS = ["Security", "Removed", "Changed", "Deprecated", "Fixed", "Added"]

BREAKING = "**Breaking:** "

NOTES = """\
## Upgrade

Read [how to upgrade]({docs}/docs/kubernetes.md#upgrade-and-uninstall) first. The chart upgrades the CustomResourceDefinition by itself:

```console
$ helm upgrade --install scrapetarget-exporter oci://ghcr.io/scrapetarget/charts/scrapetarget-exporter --version {version} \\
    --namespace prometheus --create-namespace
```

## Verify

Image, chart and `SHA256SUMS` are signed by the workflow of this repository.
[How to verify a download]({docs}/docs/publishing.md#verify-a-download) has the commands.
"""


class Changelog:
    """The sections of CHANGELOG.md: for each version its date, and its entries by kind."""

    def __init__(self, text):
        self.sections = {}
        self.order = []
        version = kind = None
        for number, line in enumerate(text.splitlines(), 1):
            if heading := re.fullmatch(r"## \[([^\]]+)\](?: - (.*))?", line):
                version, kind = heading[1], None
                if version in self.sections:
                    raise SystemExit(f"CHANGELOG.md:{number}: a second section [{version}]")
                self.sections[version] = (heading[2], {})
                self.order.append(version)
            elif line.startswith("## "):
                raise SystemExit(f"CHANGELOG.md:{number}: write the heading as `## [VERSION] - YYYY-MM-DD`")
            elif version is None or not line.strip():
                continue
            elif line.startswith("### "):
                kind = line[4:].strip()
                if kind not in KINDS:
                    raise SystemExit(f"CHANGELOG.md:{number}: no kind of change is called {kind!r}: write one of {', '.join(KINDS)}")
                self.sections[version][1].setdefault(kind, [])
            elif kind is not None and line.startswith("- "):
                self.sections[version][1][kind].append(line[2:].strip())
            elif kind is not None and line.startswith("  ") and self.sections[version][1][kind]:
                self.sections[version][1][kind][-1] += " " + line.strip()
            else:
                raise SystemExit(f"CHANGELOG.md:{number}: this belongs to no entry: write `- ` before it, or indent it")

    def entries(self, version):
        """Pairs of kind and text, in the order of the notes."""
        if version not in self.sections:
            raise SystemExit(f"CHANGELOG.md has no section [{version}]")
        kinds = self.sections[version][1]
        return [(kind, text) for kind in KINDS for text in kinds.get(kind, [])]

    def problems(self, version):
        if version not in self.sections:
            yield f"CHANGELOG.md: no heading `## [{version}] - YYYY-MM-DD`: rename [Unreleased], and begin a new one above"
            return
        date = self.sections[version][0] or ""
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
            yield f"CHANGELOG.md: the heading of {version} has the date {date!r}: write YYYY-MM-DD"
        if not self.entries(version):
            yield f"CHANGELOG.md: [{version}] has no entry"
        released = [name for name in self.order if name != "Unreleased"]
        if released[0] != version:
            yield f"CHANGELOG.md: [{version}] is not the newest: [{released[0]}] stands above it"
        if "Unreleased" in self.sections and self.entries("Unreleased"):
            yield "CHANGELOG.md: [Unreleased] has entries: what is in the tag is released, so move them down"


def notes(changelog, version):
    entries = changelog.entries(version)
    breaking = [text.removeprefix(BREAKING) for _, text in entries if text.startswith(BREAKING)]
    parts = [("Breaking changes", breaking)]
    parts += [(kind, [text for its, text in entries if its == kind and not text.startswith(BREAKING)]) for kind in KINDS]
    written = [f"## {title}\n\n" + "\n".join(f"- {text}" for text in texts) + "\n" for title, texts in parts if texts]
    docs = f"https://github.com/scrapetarget/scrapetarget-exporter/blob/v{version}"
    return "\n".join([*written, NOTES.format(docs=docs, version=version)])


def annotations(changelog, version):
    """JSON is YAML, so that no text can end its string too early."""
    entries = changelog.entries(version)
    changes = [f"- kind: {kind.lower()}\n  description: {json.dumps(text.removeprefix(BREAKING), ensure_ascii=False)}" for kind, text in entries]
    lines = ["artifacthub.io/changes: |", *("  " + line for change in changes for line in change.splitlines())]
    # A version such as 1.0.0-rc.1. Build metadata after a plus do not make one.
    lines.append(f'artifacthub.io/prerelease: "{str("-" in version.split("+")[0]).lower()}"')
    secure = any(kind == "Security" for kind, _ in entries)
    lines.append(f'artifacthub.io/containsSecurityUpdates: "{str(secure).lower()}"')
    return "\n".join(lines) + "\n"


def main(arguments):
    if len(arguments) != 2 or arguments[0] not in ("check", "notes", "annotations"):
        raise SystemExit(__doc__)
    what, version = arguments
    changelog = Changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    if what == "check":
        problems = list(changelog.problems(version))
        print("".join(problem + "\n" for problem in problems), end="")
        return int(bool(problems))
    print({"notes": notes, "annotations": annotations}[what](changelog, version), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
