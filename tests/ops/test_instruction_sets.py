"""The CPU kernels of every instruction set, each in a process of its own, which chooses one."""

import hashlib

import pytest
import torch

import zoprune_kernels as zk
from tests.ops import test_scoring_cpu, test_select_cpu
from tests.test_build import python
from zoprune_kernels import _native
from zoprune_kernels.testing import DTYPES, clustered, grid


@pytest.mark.parametrize("isa", _native.build_info()["cpu_isas"].split())
def test_every_instruction_set(isa):
    code = "from tests.ops.test_instruction_sets import check_this_one; check_this_one()"
    run = python(code, ZOPRUNE_CPU_ISA=isa, OMP_NUM_THREADS="1")
    if "does not support" in run.stderr:
        pytest.skip(f"this processor does not support {isa}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [isa, digest()]


def check_this_one() -> None:
    """Scoring and select against float64; prints the name and what all must agree on."""
    test_scoring_cpu.check_this_instruction_set()
    test_select_cpu.check_this_instruction_set()
    print(_native.cpu_isa(), digest())


def digest() -> str:
    """Of directions, which have the same bits everywhere, and of the family's picks.

    The family's sums differ in the last bits, which decides nothing on these inputs.
    """
    torch.manual_seed(0)
    scores, positions = torch.rand(577), grid(577, 24)
    results = [zk.directions(70, 63, distribution="orthogonal")]
    for dtype in DTYPES:
        keys = clustered(577, 100, dtype)
        picks = zk.select_coverage(scores, keys, 60, sort=False)
        results += [
            zk.select_dpp(scores, keys, 60, sort=False),
            zk.select_suppress(scores, keys, 60, positions, sort=False),
            picks,
            torch.ops.zoprune.merge(keys, keys, picks)[1].long(),
        ]
    return hashlib.sha256(b"".join(result.numpy().tobytes() for result in results)).hexdigest()
