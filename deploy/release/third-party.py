#!/usr/bin/env python3
"""Writes THIRD-PARTY: what others have written and is part of the program, with their licences and copyright lines. Needs cargo-about
(`cargo install --locked --features cli cargo-about`), the toolchain that the Dockerfile names with its documentation, and the sources of
all crates (`cargo fetch`). tests/licences.rs says when it must be run again.

usage: third-party.py            writes THIRD-PARTY
       third-party.py --check    exit code 1 if it is not what would be written
"""

import collections
import html
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy/release/third-party"
WRITTEN = ROOT / "THIRD-PARTY"
RULE = "=" * 100

# Crates of Rust's standard library that are linked on Linux with glibc; the others that its documentation lists are for other systems.
OF_STD = {"cfg-if", "gimli", "hashbrown", "libc", "rustc-demangle", "rustc-literal-escaper"}
# What prints backtraces: linked as well, but missing in that documentation.
OF_BACKTRACES = {
    "addr2line": "Apache-2.0, one of Apache-2.0 OR MIT",
    "adler2": "Apache-2.0, one of 0BSD OR MIT OR Apache-2.0",
    "memchr": "MIT, one of Unlicense OR MIT (by Andrew Gallant, bluss). Its text is above",
    "miniz_oxide": "Apache-2.0, one of MIT OR Zlib OR Apache-2.0",
    "object": "Apache-2.0, one of Apache-2.0 OR MIT",
}
# Of the Rust project itself, or only for tests.
OF_RUST = {"alloc", "compiler-builtins", "core", "getopts", "panic-abort", "panic-unwind", "proc-macro", "profiler-builtins", "std", "std-detect"} | {
    "rustc-std-workspace-alloc", "rustc-std-workspace-core", "rustc-std-workspace-std", "sysroot", "test", "unwind"
}

# Instead of the name that a crate without a file does not have.
MISSING = "the authors that the list above names"

HEAD = """\
Software by others in scrapetarget-exporter

The program is one file into which these are linked. Their licences want their texts and copyright lines to come with it. The exporter
itself is licensed under Apache-2.0, see LICENSE. This file is written by deploy/release/third-party.py; do not edit it.

1. Crates
2. Texts of their licences
3. Rust's standard library
4. The GNU C Library
"""


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def head(title):
    return f"\n{RULE}\n{title}\n{RULE}\n\n"


def name(package):
    return f"{package['name']} {package['version']}"


def tidy(text):
    """The same text, however its lines end."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\f", "").replace("\t", "    ").split("\n")]
    return "\n".join(lines).strip("\n")


def normal(text):
    """Equal for texts that differ only in how they are broken into lines."""
    return " ".join(text.split())


def crates():
    """The list of crates, and the texts: each text once, with those that it is for."""
    told = json.loads(run("cargo", "about", "generate", "--format", "json", "--frozen", "--fail", "--config", HERE / "about.toml"))
    packages = [one["package"] for one in told["crates"] if one["package"]["source"]]
    packages.sort(key=lambda package: (package["name"], package["version"]))
    texts = collections.OrderedDict()
    chosen = collections.defaultdict(set)
    for licence in told["licenses"]:
        users = {name(use["crate"]): use["crate"] for use in licence["used_by"] if use["crate"]["source"]}
        if not users:
            continue
        for user in users:
            chosen[user].add(licence["id"])
        text = tidy(licence["text"])
        found = texts.setdefault((licence["id"], normal(text)), (text, set()))
        found[1].update(users)
    listed = []
    for package in packages:
        mine = chosen[name(package)]
        if not mine:
            raise SystemExit(f"{name(package)}: no text of a licence was found")
        authors = ", ".join(re.sub(r" *<[^>]*>", "", author) for author in package["authors"])
        listed.append(f"* {name(package)}: {' AND '.join(sorted(mine))}" + (f" (by {authors})" if authors else ""))
        # What Apache-2.0 calls a NOTICE must be passed on. A licence among the sources is for what a crate has taken from others.
        folder = Path(package["manifest_path"]).parent
        for kind, pattern in [("NOTICE", "NOTICE*"), ("Licences", "src/**/LICENSE*")]:
            for file in sorted(folder.glob(pattern)):
                text = tidy(file.read_text(encoding="utf-8", errors="replace"))
                texts.setdefault((kind, normal(text)), (text, set()))[1].add(name(package))
    folders = {name(package): Path(package["manifest_path"]).parent for package in packages}
    return head("1. Crates") + "\n".join(listed) + "\n" + head("2. Texts of their licences") + rendered(with_own_files(texts, folders))


def with_own_files(texts, folders):
    """Where a licence is known by its name alone, the text is a form without a copyright line. Those who have files of their own get these."""
    out = collections.OrderedDict()
    for (kind, key), (text, users) in texts.items():
        if "<year>" not in text:
            out.setdefault((kind, key), (text, set()))[1].update(users)
            continue
        for user in users:
            files = sorted(file for mark in ["LICEN[CS]E*", "COPYING*", "COPYRIGHT*"] for file in folders[user].glob(mark) if file.is_file())
            for file in files:
                own = tidy(file.read_text(encoding="utf-8", errors="replace"))
                out.setdefault(("Licences", normal(own)), (own, set()))[1].add(user)
            if not files:
                out.setdefault((kind, key), (text.replace("<year>", "").replace("<owner>", MISSING).replace("<copyright holders>", MISSING), set()))[1].add(user)
    return out


def rendered(texts):
    parts = []
    for (kind, _), (text, users) in sorted(texts.items(), key=lambda item: (item[0][0], sorted(item[1][1]))):
        of = "\n".join(f"* {user}" for user in sorted(users))
        parts.append(f"{kind}, of:\n{of}\n\n{text}\n")
    return f"\n{'-' * 100}\n\n".join(parts)


def standard_library():
    version = run("rustc", "--version").split()[1]
    pinned = re.search(r"^ARG RUST=.*/rust:([0-9.]+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    if version != pinned:
        raise SystemExit(f"rustc is {version}, but the Dockerfile compiles with {pinned}: use that toolchain (`rustup run {pinned} …`)")
    page = Path(run("rustc", "--print", "sysroot").strip()) / "share/doc/rust/COPYRIGHT-library.html"
    if not page.exists():
        raise SystemExit(f"{page} is missing: `rustup component add rust-docs`")
    libraries = Path(run("rustc", "--print", "target-libdir").strip()).glob("lib*.rlib")
    linked = {re.sub(r"^lib(.+)-[0-9a-f]+$", r"\1", file.stem).replace("_", "-") for file in libraries}
    unknown = linked - OF_STD - OF_RUST - {crate.replace("_", "-") for crate in OF_BACKTRACES}
    if unknown:
        raise SystemExit(f"new in Rust's standard library: {', '.join(sorted(unknown))}: add what is linked to OF_BACKTRACES, with its licence")
    listed = [f"* {crate}: {licence}" for crate, licence in OF_BACKTRACES.items()]
    for part in page.read_text(encoding="utf-8").split("<h3>📦 ")[1:]:
        crate, number = re.match(r"(.+?)-(\d[^<]*)</h3>", part).groups()
        if crate in OF_STD:
            field = {key: html.unescape(value).strip() for key, value in re.findall(r"<p><b>(\w+):</b> (.*?)</p>", part)}
            authors = re.sub(r" *<[^>]*>", "", field.get("Authors", ""))
            listed.append(f"* {crate} {number}: Apache-2.0, one of {field['License']}" + (f" (by {authors})" if authors else ""))
    return (
        head("3. Rust's standard library")
        + f"Rust {version}: copyright The Rust Project Developers (see https://thanks.rust-lang.org), licensed under Apache-2.0, one of\n"
        "Apache-2.0 OR MIT. The text of Apache-2.0 is above. Parts of it:\n\n"
        "* core/src/unicode/unicode_data.rs: Unicode-3.0, copyright 1991-2024 Unicode, Inc. Its text is above\n"
        "* std/src/sync/mpmc: Apache-2.0, copyright 2019 The Crossbeam Project Developers\n"
        "* compiler-builtins: Apache-2.0 WITH LLVM-exception, Apache-2.0 and MIT, copyright the LLVM project and Jorge Aparicio\n"
        + "\n".join(sorted(listed))
        + "\n\n"
        + tidy((HERE / "LLVM-exception.txt").read_text(encoding="utf-8"))
        + "\n"
    )


def c_library():
    parts = [tidy((HERE / file).read_text(encoding="utf-8")) for file in ["glibc.txt", "glibc-notices.txt", "LGPL-2.1.txt"]]
    return head("4. The GNU C Library") + f"\n\n{'-' * 100}\n\n".join(parts) + "\n"


def main(arguments):
    if arguments not in ([], ["--check"]):
        raise SystemExit(__doc__)
    text = HEAD + crates() + standard_library() + c_library()
    if not arguments:
        WRITTEN.write_text(text, encoding="utf-8")
    elif not WRITTEN.exists() or WRITTEN.read_text(encoding="utf-8") != text:
        print("error: THIRD-PARTY has drifted: run deploy/release/third-party.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
