"""Libraries to link against so that the result runs with glibc 2.28 and the libstdc++ of gcc 8.

    python release/baseline.py g++ build/baseline

A linker takes a symbol's newest version from the machine's own libraries, and so the result needs
a system as new as this one. The libraries keep the older versions for old programs; this script
writes stubs of libc, libm and libstdc++ that offer only those up to the baseline (manylinux_2_28).
What a program uses and the baseline lacks is then an error of the linker, not of a user's system.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BASELINE = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11)}
SYMBOL = re.compile(
    r" (FUNC|IFUNC|OBJECT|TLS) +(?:GLOBAL|WEAK|UNIQUE) +\w+ +\w+ (\S+?)@@?([A-Z]+)_([\d.]+)$", re.M
)


def symbols(library: str) -> dict[str, tuple[str, str]]:
    """Each symbol's type and its newest version within the baseline."""
    listing = subprocess.run(
        ["readelf", "-W", "--dyn-syms", library], check=True, capture_output=True, text=True
    )
    newest: dict[str, tuple[tuple[int, ...], str, str]] = {}
    for kind, name, family, number in SYMBOL.findall(listing.stdout):
        version = tuple(map(int, number.split(".")))
        if version <= BASELINE.get(family, ()) and version > newest.get(name, ((),))[0]:
            newest[name] = (version, kind, f"{family}_{number}")
    return {name: (kind, version) for name, (_, kind, version) in newest.items()}


def write_stub(compiler: str, library: str, soname: str, output: Path) -> None:
    sections = {"OBJECT": ".data", "TLS": '.section .tdata, "awT"'}
    types = {"OBJECT": "object", "TLS": "tls_object"}
    lines, versions = [], set()
    for i, (name, (kind, version)) in enumerate(sorted(symbols(library).items())):
        versions.add(version)
        lines += [
            sections.get(kind, ".text"),
            f".globl stub{i}\n.type stub{i}, @{types.get(kind, 'function')}\nstub{i}: .quad 0",
            f'.symver stub{i}, "{name}@@{version}", remove',
        ]
    source = output.with_suffix(".s")
    source.write_text("\n".join(lines) + "\n")
    script = output.with_suffix(".map")
    script.write_text("\n".join(f"{version} {{ }};" for version in sorted(versions)))
    link = f"-Wl,-soname,{soname},--version-script={script}"
    subprocess.run([compiler, "-shared", "-nostdlib", link, source, "-o", output], check=True)


def main(compiler: str, folder: str) -> None:
    directory = Path(folder)
    directory.mkdir(parents=True, exist_ok=True)

    def find(name: str) -> str:
        command = [compiler, f"-print-file-name={name}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for soname in ("libc.so.6", "libm.so.6", "libstdc++.so.6"):
        write_stub(compiler, find(soname), soname, directory / soname)
    for name in ("libm", "libstdc++"):
        (directory / f"{name}.so").write_text(f"INPUT({directory.resolve()}/{name}.so.6)\n")
    # As the machine's own libc.so. glibc 2.28 has pthreads and dlopen in libraries of their own,
    # which torch brings along.
    rest = f"{find('libc_nonshared.a')} AS_NEEDED({find('ld-linux-x86-64.so.2')})"
    (directory / "libc.so").write_text(f"GROUP({directory.resolve()}/libc.so.6 {rest})\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
