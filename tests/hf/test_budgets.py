"""What counts as a budget, and what it comes to."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from zoprune.budgets import as_keep, tokens_of

COUNTS = [1, 7, np.int8(7), np.uint64(7), np.array(7), torch.tensor(7), torch.tensor(7).short()]
RATIOS = [
    0.25,
    Fraction(1, 4),
    np.float16(0.25),
    np.float64(0.25),
    np.array(0.25),
    np.array(0.25, dtype=np.float32),
    torch.tensor(0.25),
    torch.tensor(0.25, dtype=torch.bfloat16),
    torch.tensor(0.25, requires_grad=True),
]
OTHERS = [
    *(True, np.True_, np.array(True), torch.tensor(True)),  # no truth values
    *(0, -3, 0.0, -0.25, 1.5, 64.0, np.float32(2), torch.tensor(1.01), Fraction(5, 4)),
    *(float("nan"), float("inf"), np.nan, torch.tensor(torch.nan), -np.inf),
    *("64", "0.25", b"1", "all", None, [64], (64,), {64}, {"keep": 64}),
    *(np.array([64]), np.array([0.25]), np.array([]), torch.tensor([64]), torch.tensor([0.25])),
    *(1j, np.complex64(1), torch.tensor(1j), Decimal("0.25"), np.array("64"), np.array(None)),
    *(torch.tensor(0.25, device="meta"), Ellipsis),
]


@pytest.mark.parametrize("keep", COUNTS, ids=repr)
def test_counts_of_any_library(keep):
    assert type(as_keep(keep)) is int and as_keep(keep) == int(keep)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("keep", RATIOS, ids=repr)
def test_ratios_of_any_library(keep):
    assert type(as_keep(keep)) is float and as_keep(keep) == 0.25


@pytest.mark.parametrize("keep", OTHERS, ids=repr)
def test_anything_else_is_refused_with_what_came(keep):
    with pytest.raises(ValueError, match="keep: expected a count >= 1 or a ratio in") as e:
        as_keep(keep)
    assert "(1 is one token, 1.0 all of them)" in str(e.value) and repr(keep) in str(e.value)


@pytest.mark.parametrize("one", [1, np.int64(1), np.array(1), torch.tensor(1)])
@pytest.mark.parametrize(
    "all_", [1.0, np.float32(1), np.array(1.0), torch.tensor(1.0), Fraction(1)]
)
def test_one_is_a_token_and_1_0_is_all(one, all_):
    assert tokens_of(as_keep(one), 16) == 1
    assert tokens_of(as_keep(all_), 16) == 16


def test_what_it_comes_to():
    assert [tokens_of(k, 16) for k in (5, 40, 0.5, 0.01, 1e-9, 0.99)] == [5, 16, 8, 1, 1, 16]
