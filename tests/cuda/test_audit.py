"""The CUDA kernels' machine code in the library that was built."""

import pytest

pytest.importorskip("triton")
from audit import cuda_kernels, sass
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
    assert {(row.kernel, row.dtype) for row in rows} == {
        (kernel, dtype)
        for kernel in [*kernels, "coverage_select_kernel", "mark_kernel", "centre_kernel"]
        for dtype in ("float32", "float16", "bfloat16")
    }
    assert not any(row.problems() for row in rows), table(rows)
    assert all(row.registers <= 255 for row in rows)  # one block of 256 threads fits


@pytest.mark.parametrize(
    ("code", "first"),
    [
        (["LDC R1, c[0x0]", "ACQBULK", "LDG R2, [R1]", "EXIT"], True),
        (["BRA.U UP0, `(.L_x_0)", "STS [UR4], R2", ".L_x_0:", "ACQBULK", ".L_x_1:"], True),
        (["CALL.REL `($__internal_1_$__cuda_sm10x_tcgen05_guardrail_trap)", "ACQBULK"], True),
        (["LDC R1, c[0x0]", "LDG R2, [R1]", "EXIT"], False),
        (["@P0 LDG.E R2, [R1]", "ACQBULK", "EXIT"], False),
        (["UTMALDG.2D [UR8], [UR4]", "ACQBULK"], False),
        (["PREEXIT", "ACQBULK"], False),
        (["@P0 EXIT", "ACQBULK"], False),
        (["@P0 BRA `(.L_x_1)", "ACQBULK", ".L_x_1:", "LDG R2, [R1]"], False),
        (["CALL.REL `(helper)", "ACQBULK"], False),
    ],
)
def test_whether_a_kernel_waits_first_is_read_in_its_code(code, first):
    lines = [c if c[0] == "." else f"        /*{i:04x}*/   {c} ;" for i, c in enumerate(code)]
    assert sass.waits_first("\n".join(lines)) is first
