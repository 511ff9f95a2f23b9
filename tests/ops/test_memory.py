"""A process that scores images for days does not grow."""

import functools

import pytest
import torch

from tests.ops.memory import growth, needs_count
from zoprune_kernels.testing import operator_calls, projector

OPS = torch.ops.zoprune
LEAST_LEAK = 48  # bytes: one std::string


def flat(call, calls: int = 150) -> bool:
    return growth(call, calls) < LEAST_LEAK / 2


@needs_count
@pytest.mark.parametrize("op", sorted(operator_calls(torch.float32)))
def test_memory_is_flat(op, one_thread):
    for dtype in (torch.float32, torch.bfloat16):
        arguments, options = operator_calls(dtype)[op]
        call = functools.partial(getattr(OPS, op), *arguments, **options)
        assert flat(call), (op, dtype)


@needs_count
def test_memory_is_flat_on_two_threads():
    arguments, options = operator_calls(torch.float32)["score_and_select"]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert flat(lambda: OPS.score_and_select(*arguments, **options), 80)
    finally:
        torch.set_num_threads(threads)


@needs_count
def test_memory_is_flat_with_products_in_half_precision():
    p = projector(9, d=33, hidden=1030, out=1025, dtype=torch.bfloat16)
    metric, directions = OPS.fold_metric(p.w1, p.w2), OPS.directions(2, 33)
    assert flat(lambda: OPS.project_and_select(*p.layers, 4, metric=metric))
    assert flat(lambda: OPS.sensitivity(*p.layers[:4], directions))


@needs_count
def test_memory_is_flat_when_calls_are_refused():
    p = projector(9)
    directions = OPS.directions(2, 32)

    def refused():
        with pytest.raises(RuntimeError, match="activation: expected one of"):
            OPS.sensitivity(*p.layers[:4], directions, activation="a name of more than 16 letters")

    assert flat(refused, 1000)


TOO_LARGE = {
    "directions": (lambda: OPS.directions(2**40, 1024), 2**53, "the directions"),
    "fold_metric": (lambda: OPS.fold_metric(ONES, ONES.T), 2**42, "the metric"),
    "select_dpp": (
        lambda: OPS.select_dpp(ONES[:600_000, 0], ONES[:600_000], 600_000),
        4 * 600_000**2,
        "the components of select_dpp",
    ),
}
ONES = torch.ones(2**20, 1)


@pytest.mark.parametrize("op", TOO_LARGE)
def test_too_little_memory_says_how_much_for_what(op):
    call, size, what = TOO_LARGE[op]
    with pytest.raises(RuntimeError, match=f"zoprune: out of memory: {size} bytes for {what}"):
        call()
