"""The CUDA kernels' machine code in the library that was built."""

import pytest

pytest.importorskip("triton")
from audit import cuda_kernels
from audit.report import table
from zoprune_kernels import _native


@pytest.mark.skipif(not _native.build_info().get("cuda"), reason="built without CUDA")
@pytest.mark.parametrize("capability", cuda_kernels.CAPABILITIES)
def test_no_spills_and_tensor_cores_everywhere(capability):
    rows = cuda_kernels.rows(capability)
    kernels = [f"select_kernel, {name}" for name in ("Redundancy", "Suppression", "Volume")]
    assert {(row.kernel, row.dtype) for row in rows} == {
        (kernel, dtype)
        for kernel in [*kernels, "coverage_select_kernel", "mark_kernel", "centre_kernel"]
        for dtype in ("float32", "float16", "bfloat16")
    }
    assert not any(row.problems() for row in rows), table(rows)
    assert all(row.registers <= 255 for row in rows)  # one block of 256 threads fits
