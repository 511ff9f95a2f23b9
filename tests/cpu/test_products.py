"""Products by AMX's tiles: as machine code, on any processor with AVX512-BF16 (amx.cpp)."""

import subprocess

import pytest

from tests.cpu.sanitize import ISA, ROOT
from zoprune_kernels import _native

SOURCES = (
    "tests/cpu/products_check.cpp",
    "tests/cpu/similarity_check.cpp",
    "tests/cpu/amx.cpp",
    "csrc/cpu/product.cpp",
    "csrc/cpu/similarity.cpp",
)


@pytest.mark.skipif(
    _native.cpu_isa() not in ("avx512bf16", "amx"), reason="this processor lacks AVX512-BF16"
)
def test_products_of_tiles(tmp_path):
    flags = f"-std=c++17 -O3 -fno-math-errno -ffp-contract=off {ISA['amx']}"
    paths = ["-DZOPRUNE_ISA=amx", "-DZOPRUNE_MAIN", f"-I{ROOT}/csrc", f"-I{ROOT}/csrc/include"]
    program = tmp_path / "products"
    sources = [ROOT / name for name in SOURCES]
    subprocess.run(["g++", *flags.split(), *paths, *sources, "-o", program], check=True)
    run = subprocess.run([program, "10"], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("right\n", "")
