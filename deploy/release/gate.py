#!/usr/bin/env python3
"""One version: the tag, the program, the chart, the manifests and the changelog must all say the same before anything is built.

usage: gate.py TAG        one line per problem, exit code 1 if there is any; else the version
"""

import re
import subprocess
import sys

# Leaves nothing in the checkout.
sys.dont_write_bytecode = True
import version  # noqa: E402

# Made of the others by `make generate`.
GENERATED = "deploy/scrapetarget-exporter.yaml"


def problems(tag):
    if not re.fullmatch("v" + version.SEMVER, tag):
        # A plus is not allowed in the tag of an image.
        yield f"tag {tag}: write v and a semantic version, such as v1.2.3 or v1.2.3-rc.1"
        return
    wanted = tag[1:]
    for path, what, is_there in version.fields():
        if is_there != wanted:
            yield f"{path}: {what} is {is_there}, the tag is {tag}"
    for path in [*version.FILES, GENERATED]:
        found = version.names(path)
        if not found:
            yield f"{path}: names no version of the image"
        for other in sorted(set(found) - {wanted}):
            yield f"{path}: names {other}, the tag is {tag}"
    changelog = subprocess.run([sys.executable, version.ROOT / "deploy/release/changelog.py", "check", wanted], capture_output=True, text=True, check=False)
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
