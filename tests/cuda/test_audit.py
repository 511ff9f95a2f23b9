"""The CUDA kernels' machine code in the library that was built."""

import pytest

pytest.importorskip("triton")
from audit import cuda_kernels
from audit.report import table
from zoprune_kernels import _native

# `make test` builds for one architecture, `make test-full` and `make audit` for all.
BUILT = _native.build_info().get("cuda_archs", "").split()


@pytest.mark.parametrize("capability", cuda_kernels.CAPABILITIES)
def test_no_spills_and_tensor_cores_everywhere(capability):
    if not any(arch.startswith(str(capability)) for arch in BUILT):
        pytest.skip(f"the native library has no code for sm_{capability}")
    rows = cuda_kernels.rows(capability)
    kernels = [f"select_kernel, {name}" for name in ("Redundancy", "Suppression", "Volume")]
    kernels.append("cluster_select_kernel, Redundancy")
    assert {(row.kernel, row.dtype) for row in rows} == {
        (kernel, dtype)
        for kernel in [*kernels, "coverage_select_kernel", "mark_kernel", "centre_kernel"]
        for dtype in ("float32", "float16", "bfloat16")
    }
    assert not any(row.problems() for row in rows), table(rows)
    assert all(row.registers <= 255 for row in rows)  # one block of 256 threads fits
