#!/usr/bin/env python3
"""The program of a release runs on a Linux of the named architecture and needs nothing of it: neither an interpreter nor a library.

usage: elf.py amd64|arm64 PROGRAM        one line that says what is wrong, and exit code 1
"""

import struct
import sys
from pathlib import Path

MACHINES = {"amd64": 62, "arm64": 183}
LOAD, DYNAMIC, INTERPRETER = 1, 2, 3
END, NEEDED = 0, 1


def problem(architecture, program):
    try:
        if program[:6] != b"\x7fELF\x02\x01":
            return "is no ELF file of 64 bits, little end first"
        (machine,) = struct.unpack_from("<H", program, 18)
        if machine != MACHINES[architecture]:
            others = [name for name, number in MACHINES.items() if number == machine]
            return f"is for {others[0] if others else f'machine {machine}'}, not for {architecture}"
        (table,) = struct.unpack_from("<Q", program, 32)
        size, count = struct.unpack_from("<HH", program, 54)
        headers = [struct.unpack_from("<IIQQQQQQ", program, table + index * size) for index in range(count)]
        if all(header[0] != LOAD for header in headers):
            return "has nothing to load"
        for kind, _, offset, _, _, length, *_ in headers:
            if kind == INTERPRETER:
                return "asks for an interpreter: it is not linked statically"
            if kind == DYNAMIC:
                for at in range(offset, offset + length, 16):
                    tag, _ = struct.unpack_from("<qQ", program, at)
                    if tag == END:
                        break
                    if tag == NEEDED:
                        return "needs a library: it is not linked statically"
    except struct.error:
        return "is cut off"
    return None


def main(arguments):
    if len(arguments) != 2 or arguments[0] not in MACHINES:
        raise SystemExit(__doc__)
    architecture, path = arguments
    if wrong := problem(architecture, Path(path).read_bytes()):
        print(f"error: {path} {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
