"""Random calls of every operator: sizes, layouts, dtypes, values and options far out of range."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from zoprune_kernels.methods import METHODS
from zoprune_kernels.testing import DTYPES, fallback

OPS = torch.ops.zoprune
INT32, INT64 = torch.int32, torch.int64

NUMBERS = st.one_of(
    st.sampled_from([0.01, 0.5, 1.0, 0.0, -1.0]),
    st.sampled_from([1e-320, 1e-39, 1e-20, 1e-18, 1e18, 1e39, 1e300, math.inf, math.nan]),
    st.floats(),
)
COUNTS = st.one_of(
    st.integers(0, 12), st.sampled_from([-1, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63)])
)
WORDS = {
    "distribution": ["sphere", "gaussian", "rademacher", "orthogonal", "cube"],
    "activation": ["gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "identity", "tanh"],
    "method": [*METHODS, "greedy"],
    "first": ["score", "isolated", "best"],
    "rule": ["soft", "hard", "mean", "residual", "equal", "softmax", ""],
}
SMALL = {"num", "dim", "num_directions"}  # sizes of what is allocated
KINDS = ["plain", "plain", "repeated", "zero", "huge", "tiny", "not finite"]


class Fuzzed:
    """The arguments of one call, by name; ``plain`` where all tensors hold ordinary numbers."""

    def __init__(self, draw: Any, op: str) -> None:
        self.draw, self.op = draw, op
        self.schema = getattr(OPS, op).default._schema.arguments
        names = [argument.name for argument in self.schema]
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
        self.dtype = draw(st.sampled_from(DTYPES))
        self.plain = True
        self.d, self.hidden, self.out = (draw(st.integers(1, 40)) for _ in range(3))
        self.packed = "cu_tokens" in names
        self.sizes = draw(
            st.lists(st.integers(0 if self.packed else 1, 20), min_size=1, max_size=3)
        )
        batched = draw(st.booleans())
        tokens = max(sum(self.sizes), 1) if self.packed else self.sizes[0]
        self.lead = [len(self.sizes), tokens] if batched and not self.packed else [tokens]
        self.kept = [draw(st.integers(0, size)) for size in self.sizes]
        self.arguments = {}
        for argument in self.schema:
            optional = argument.has_default_value()
            if not optional or draw(st.integers(0, 3)) == 0:
                self.arguments[argument.name] = self.value(argument.name)

    def tensor(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        kind = self.draw(st.sampled_from(KINDS))
        values = torch.randn(*shape, generator=self.generator)
        self.plain &= kind == "plain"
        if kind == "repeated":
            values = values.round()
        elif kind == "zero":
            values.zero_()
        elif kind in ("huge", "tiny"):
            values *= 1e38 if kind == "huge" else 1e-38
        elif kind == "not finite":
            odd = torch.tensor([math.nan, math.inf, -math.inf])
            at = torch.rand(*shape, generator=self.generator) < 0.05
            values = torch.where(at, odd[torch.randint(3, shape, generator=self.generator)], values)
        return values.to(self.dtype if dtype is None else dtype)

    def flags(self, share: float) -> Tensor:
        return torch.rand(self.lead, generator=self.generator) < share

    def offsets(self, counts: list[int]) -> Tensor:
        return torch.tensor([0, *counts]).cumsum(0).to(INT32)

    def indices(self) -> Tensor:
        def own(tokens: int, keep: int) -> Tensor:
            return torch.randperm(tokens, generator=self.generator)[:keep].sort().values

        if self.packed:
            starts = self.offsets(self.sizes).tolist()
            picks = zip(self.sizes, self.kept, starts, strict=False)
            return torch.cat([own(tokens, keep) + start for tokens, keep, start in picks])
        keep = self.draw(st.integers(0, self.lead[-1]))
        rows = [own(self.lead[-1], keep) for _ in range(self.lead[0] if self.lead[1:] else 1)]
        return torch.stack(rows).view(*self.lead[:-1], keep)

    def value(self, name: str) -> Any:
        d, hidden, out, lead = self.d, self.hidden, self.out, self.lead
        if self.op == "budget" and name == "weights":
            return self.tensor(len(self.sizes))
        if self.op == "frame_change" and name == "x":
            return self.tensor(*lead, 3, d)
        if self.op == "compact":
            last = len(lead) - 1
            indices = self.indices()
            self.arguments["indices"] = indices
            return {
                "tensors": [self.tensor(*lead, d), self.flags(0.5)],
                "indices": indices,
                "dims": [last, self.draw(st.sampled_from([last, last, 5]))],
            }[name]
        shapes = {
            "x": [*lead, d], "w1": [hidden, d], "b1": [hidden], "w2": [out, hidden], "b2": [out],
            "directions": [3, d], "scores": lead, "quality": lead,
            "weights": lead, "sizes": lead, "keys": [*lead, out], "tokens": [*lead, out],
            "positions": [*lead, self.draw(st.integers(2, 3)) if name == "positions" else 2],
        }  # fmt: skip
        if name == "metric":  # symmetric, and no form of it is a difference of large numbers
            half = self.tensor(hidden, hidden, dtype=torch.float32) / hidden**0.5
            return (half @ half.T).to(self.dtype)
        if name in shapes:
            return self.tensor(*shapes[name])
        if name in ("must_keep", "valid"):
            return self.flags(0.1 if name == "must_keep" else 0.9)
        if name == "cu_tokens":
            return self.offsets(self.sizes)
        if name == "cu_keep":
            return self.offsets(self.kept)
        if name == "capacity":
            return torch.randint(0, 9, (len(self.sizes),), generator=self.generator, dtype=INT32)
        if name == "indices":
            return self.indices()
        if name == "total_keep":
            return sum(self.kept) if self.draw(st.integers(0, 9)) else self.draw(COUNTS)
        if name == "k":
            return self.draw(st.one_of(st.integers(1, lead[-1]), COUNTS))
        if name in WORDS:
            return self.draw(st.sampled_from(WORDS[name]))
        if name in SMALL:
            return self.draw(st.integers(-1, 40))
        if name in ("sort", "centre"):
            return self.draw(st.booleans())
        if name == "seed":
            return self.draw(st.integers(-(2**63), 2**63 - 1))
        if name == "dtype":
            return self.draw(st.sampled_from([*DTYPES, torch.float64]))
        if name == "device":
            return torch.device("cpu")
        if name in ("count", "total", "minimum", "num_seed", "picks_per_step"):
            return self.draw(COUNTS)
        return self.draw(NUMBERS)  # step, temperature, sigmas, ...


@st.composite
def calls(draw: Any, op: str) -> Fuzzed:
    return Fuzzed(draw, op)


def outcome(function: Any, arguments: dict[str, Any]) -> tuple[list[Tensor], str]:
    """The tensors that come back, or the refusal."""
    try:
        result = function(**arguments)
    except RuntimeError as error:
        return [], str(error)
    return [result] if isinstance(result, Tensor) else list(result), ""


def check(call: Fuzzed) -> None:
    """The kernel and the PyTorch fallback refuse alike or return alike, and picks are picks."""
    op, arguments = call.op, call.arguments
    got, refusal = outcome(getattr(OPS, op), arguments)
    again, _ = outcome(getattr(OPS, op), arguments)
    want, expected = outcome(getattr(fallback, op), arguments)
    assert refusal.partition("\n")[0] == expected.partition("\n")[0], (refusal, expected)
    assert not refusal or refusal.startswith(f"zoprune::{op}: "), refusal
    assert [t.shape for t in got] == [t.shape for t in want]
    assert [t.dtype for t in got] == [t.dtype for t in want]
    for first, second in zip(got, again, strict=True):
        assert torch.equal(first.nan_to_num(7), second.nan_to_num(7)), "not the same bits again"
    picks = [t for t in got if t.dtype == INT64 and op != "compact"]
    for indices in picks:
        check_picks(call, indices)
    # Few dimensions make equal cosines, among which rounding chooses where a token merges.
    plain = call.plain and (not op.startswith("merge") or call.out >= 8)
    if plain and op in ("budget", "merge", "merge_varlen", "frame_change", "compact"):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2, equal_nan=True)
    if call.plain and got and got[-1].dtype == torch.float32 and "w1" in arguments:
        if op != "fold_metric":
            torch.testing.assert_close(got[-1], want[-1], rtol=3e-2, atol=3e-2, equal_nan=True)


def check_picks(call: Fuzzed, indices: Tensor) -> None:
    """In range, distinct, valid; all that must be kept are; ascending where sorted."""
    starts, sizes, kept = [0], [call.lead[-1]], [indices.shape[-1]]
    rows = list(indices.reshape(-1, indices.shape[-1]))
    if call.packed:
        starts, sizes, kept = call.offsets(call.sizes).tolist(), call.sizes, call.kept
        rows = list(indices.split(kept))
    for number, row in enumerate(rows):
        start, size = (starts[number], sizes[number]) if call.packed else (0, sizes[0])
        assert ((row >= start) & (row < start + size)).all()
        assert row.unique().numel() == row.numel()
        if call.arguments.get("sort", True) and call.op != "merge_bipartite":
            assert (row.diff() > 0).all()
        masks = {name: call.arguments.get(name) for name in ("valid", "must_keep")}
        flat = {
            n: m if m is None or call.packed else m.reshape(-1, size)[number]
            for n, m in masks.items()
        }
        if flat["valid"] is not None:
            assert flat["valid"][row].all()
        if flat["must_keep"] is not None:
            own = flat["must_keep"][start : start + size] if call.packed else flat["must_keep"]
            assert set((own.nonzero()[:, 0] + start).tolist()) <= set(row.tolist())
