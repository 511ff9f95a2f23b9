"""python -m tests.cpu.sanitize [rounds]: the CPU kernels under AddressSanitizer with its leak check
and UBSan, once per instruction set that this processor has, and AMX, emulated where it lacks it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zoprune_kernels import _native

ROOT = Path(__file__).parents[2]
FLAGS = "-std=c++17 -O1 -g1 -fno-math-errno -ffp-contract=off -pthread"
# Without float-cast-overflow and divide-by-zero, which IEEE arithmetic defines.
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
AVX2 = "-mavx2 -mfma -mf16c"
AVX512 = (
    f"{AVX2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -Wno-maybe-uninitialized -Wno-uninitialized"
)
ISA = {
    "scalar": "",
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512bf16": f"{AVX512} -mavx512bf16",
    "amx": f"{AVX512} -mavx512bf16 -mamx-tile -mamx-bf16",
}


def build(folder: Path, isa: str) -> Path:
    common = ["g++", *FLAGS.split(), *SANITIZERS.split(), *ISA[isa].split()]
    common += [f"-DZOPRUNE_ISA={isa}", f"-I{ROOT / 'csrc/include'}", f"-I{ROOT / 'csrc'}"]
    sources = [p for p in sorted((ROOT / "csrc/cpu").glob("*.cpp")) if p.name != "isa.cpp"]
    checks = ["sanitized_main.cpp", "products_check.cpp", "similarity_check.cpp"]
    emulator = ["amx.cpp"] if isa == "amx" else []
    sources += [Path(__file__).with_name(name) for name in checks + emulator]

    def compile_one(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        subprocess.run([*common, "-c", source, "-o", target], check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    subprocess.run([*common, *objects, "-o", folder / "kernels"], check=True)
    return folder / "kernels"


def main(rounds: str = "2000") -> None:
    names = list(ISA)
    best = _native.cpu_isa()
    last = "amx" if best == "avx512bf16" else best  # emulated
    for isa in names[: names.index(last) + 1]:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [build(Path(folder), isa), rounds, "1"],
                capture_output=True,
                text=True,
                env=os.environ | {"ASAN_OPTIONS": "detect_leaks=1"},
            )
        print(f"{isa}: {done.stdout.strip()}{done.stderr[-4000:]}")
        if done.returncode:
            sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
