"""What select_dpp, select_suppress and select_coverage have in common: errors, instruction sets."""

import hashlib
import subprocess
import sys

import pytest
import torch

from tests.bad_calls import bad_calls
from zoprune_kernels import fallback

OPS = [f"select_{name}{end}" for name in ("dpp", "suppress", "coverage") for end in ("", "_varlen")]


@pytest.mark.parametrize("op", OPS)
def test_errors_have_the_fallbacks_text(op):
    refused = 0
    for _, arguments in bad_calls([op]):
        if arguments["keys"] is None and "suppress" not in op:
            continue  # the dispatcher itself refuses it
        try:
            getattr(fallback, op)(**arguments)
        except RuntimeError as error:
            with pytest.raises(RuntimeError) as raised:
                getattr(torch.ops.zoprune, op)(**arguments)
            assert str(error) in str(raised.value)
            assert str(error).startswith(f"zoprune::{op}: ")
            refused += 1
    assert refused >= 8


PICKS = """if True:
    import hashlib, torch, zoprune_kernels as zk
    from tests.family import clustered, grid
    torch.manual_seed(0)
    scores, positions, picks = torch.rand(577), grid(577, 24), []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        keys = clustered(577, 100, dtype)
        picks.append(zk.select_dpp(scores, keys, 60, sort=False))
        picks.append(zk.select_suppress(scores, keys, 60, positions, sort=False))
        picks.append(zk.select_coverage(scores, keys, 60, sort=False))
    print(hashlib.sha256(torch.stack(picks).numpy().tobytes()).hexdigest())
    """


@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_instruction_sets_pick_the_same_here(isa, monkeypatch):
    """Their sums differ in the last bits, which decides nothing on these inputs."""
    best = subprocess.run([sys.executable, "-c", PICKS], capture_output=True, text=True)
    monkeypatch.setenv("ZOPRUNE_CPU_ISA", isa)
    other = subprocess.run([sys.executable, "-c", PICKS], capture_output=True, text=True)
    assert len(best.stdout.strip()) == hashlib.sha256().digest_size * 2, best.stderr
    assert other.stdout == best.stdout, other.stderr
