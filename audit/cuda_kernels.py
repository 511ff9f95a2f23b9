"""Every CUDA C++ kernel as it lies in the native library, for each architecture."""

from __future__ import annotations

import ctypes
import re

from zoprune_kernels import _native

from . import sass
from .report import Row

CAPABILITIES = (80, 90, 100)
_MACHINES = {80: "sm_80", 90: "sm_90a", 100: "sm_100a"}
_DTYPES = ("float32", "float16", "bfloat16")  # in the order of cuda::DType
_NO_PRODUCTS = ("mark_kernel", "centre_kernel")
# Of kernel<dtype> or select_kernel<dtype, objective>, as the compiler mangles it.
_NAME = re.compile(r"\d([a-z_]+_kernel)ILNS0_5DTypeE(\d)E(?:NS0?_\d+([A-Za-z]+?)E)?")
_FUNCTION = re.compile(r"^\s*Function\s*:?\s*(\S+?):?\s*$", re.MULTILINE)


def rows(capability: int) -> list[Row]:
    """The kernels of one architecture.

    Raises:
        RuntimeError: the library was not built with CUDA, or not for the architecture.
    """
    if not _native.build_info().get("cuda"):
        raise RuntimeError("the native library was built without CUDA")
    machine = ("-arch", _MACHINES[capability], _native.LIBRARY)
    usages = _by_function(sass.run("cuobjdump", "-res-usage", *machine))
    codes = _by_function(sass.run("cuobjdump", "-sass", *machine))
    if not usages or usages.keys() != codes.keys():
        raise RuntimeError(f"the native library has no code for {_MACHINES[capability]}")
    found = []
    for function, usage in usages.items():
        kernel, dtype, objective = _NAME.search(function).groups()
        code = sass.count(usage, codes[function])
        # At launch; the compiler's own figure is what it reserves beside it.
        shared = _shared_bytes(kernel) + int(re.search(r"SHARED:(\d+)", usage)[1])
        found.append(
            Row(
                f"{kernel}, {objective}" if objective else kernel,
                _DTYPES[int(dtype)],
                capability,
                code.registers,
                shared,
                code.spills,
                code.tensor_core,
                code.tma,
                products=kernel not in _NO_PRODUCTS,
            )
        )
    return found


def _by_function(dump: str) -> dict[str, str]:
    """What a dump says of each function."""
    _, *parts = _FUNCTION.split(dump)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _shared_bytes(kernel: str) -> int:
    """Dynamic shared memory of a launch, which the library itself tells."""
    library = ctypes.CDLL(str(_native.LIBRARY))
    return ctypes.c_int.in_dll(library, f"zoprune_{kernel}_shared_bytes").value
