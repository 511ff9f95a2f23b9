"""CUDA sources use what CUDA 12.6 has, the oldest that the Hugging Face kernels hub builds with."""

import re
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
# Functions and enumerators of the runtime, all of them in CUDA 11.8.
RUNTIME = {
    "cudaDevAttrMaxSharedMemoryPerBlockOptin",
    "cudaDevAttrMultiProcessorCount",
    "cudaDeviceGetAttribute",
    "cudaErrorInvalidConfiguration",
    "cudaError_t",
    "cudaFuncAttributeMaxDynamicSharedMemorySize",
    "cudaFuncAttributes",
    "cudaFuncGetAttributes",
    "cudaFuncSetAttribute",
    "cudaGetErrorString",
    "cudaGetLastError",
    "cudaLaunchAttribute",
    "cudaLaunchAttributeCooperative",
    "cudaLaunchConfig_t",
    "cudaLaunchKernelEx",
    "cudaMemsetAsync",
    "cudaSetDevice",
    "cudaStream_t",
    "cudaSuccess",
}
# Instructions up to their first type or shape, all of them in PTX 7.0 (CUDA 11.0).
PTX = {"cp.async", "cvt.rna", "ld.acquire", "ldmatrix.sync", "mma.sync", "red.release"}


def text() -> str:
    files = [path for path in CSRC.rglob("*") if path.suffix in (".cu", ".cuh", ".cpp", ".h")]
    return "\n".join(re.sub(r"//.*", "", path.read_text()) for path in files)


def test_the_runtime_is_that_of_cuda_12():
    assert set(re.findall(r"\bcuda[A-Z]\w+", text())) <= RUNTIME


def test_the_instructions_are_those_of_ptx_7():
    (sources,) = [path.read_text() for path in CSRC.rglob("ptx.cuh")]
    used = {".".join(name.split(".")[:2]) for name in re.findall(r'"([a-z]\w*\.[\w.:]+)', sources)}
    assert used and used <= PTX


def test_the_language_is_cpp_17():
    """No header, keyword or attribute of a later C++."""
    headers = r"#include <(bit|concepts|format|numbers|ranges|span)>"
    keywords = r"\b(concept|consteval|constinit|requires)\b"
    assert not re.search(f"{headers}|{keywords}", text())
