"""Argument checks shared by the reference, the fake kernels and every Python backend.

Each error reads ``zoprune::<op>: <argument>: expected <what>, got <what came>`` and is a
RuntimeError. The native library raises the same text (csrc/bindings/checks.h).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .rules import FAMILY, FIRST_PICKS, METHODS, RULES, PruneRule, SelectRule, Suppression

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "identity")
DISTRIBUTIONS = ("sphere", "gaussian", "rademacher", "orthogonal")
Shape = list[int]
FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Checker:
    """Checks the arguments of one operator, naming it in every message."""

    def __init__(self, op: str) -> None:
        self.op = op

    def fail(self, argument: str, expected: str, got: Any) -> None:
        raise RuntimeError(f"zoprune::{self.op}: {argument}: expected {expected}, got {got}")

    def one_of(self, argument: str, value: str, choices: Sequence[str]) -> None:
        if value not in choices:
            self.fail(argument, f"one of {', '.join(choices)}", f"'{value}'")

    def float_dtype(self, argument: str, tensor: Tensor) -> None:
        if tensor.dtype not in FLOAT_DTYPES:
            self.fail(argument, "float32, float16 or bfloat16", _dtype(tensor.dtype))

    def dtype(self, argument: str, tensor: Tensor, dtype: torch.dtype, why: str = "") -> None:
        if tensor.dtype != dtype:
            self.fail(argument, f"dtype {_dtype(dtype)}{why}", _dtype(tensor.dtype))

    def device(self, argument: str, tensor: Tensor, like: Tensor, name: str) -> None:
        if tensor.device != like.device:
            self.fail(argument, f"device {like.device} (that of {name})", tensor.device)
        if tensor.layout != torch.strided:
            self.fail(argument, "a strided tensor", tensor.layout)

    def shape(self, argument: str, tensor: Tensor, expected: Sequence[Any], names: str) -> None:
        """Require ``tensor.shape == expected``, where a string stands for any size >= 1."""
        same = tensor.dim() == len(expected) and all(
            size >= 1 if isinstance(want, str) else size == want
            for size, want in zip(tensor.shape, expected, strict=True)
        )
        if not same:
            self.fail(argument, f"shape {_shape(expected)} ({names})", _shape(tensor.shape))

    # -- scoring ----------------------------------------------------------------------------------

    def tokens(self, x: Tensor, *, packed: bool = False) -> None:
        self.float_dtype("x", x)
        self.device("x", x, x, "x")
        if packed and (x.dim() != 2 or min(x.shape) < 1):
            self.fail("x", "shape [T, d]", _shape(x.shape))
        if not packed and (x.dim() not in (2, 3) or min(x.shape) < 1):
            self.fail("x", "shape [N, d] or [B, N, d]", _shape(x.shape))

    def linear(
        self, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor | None, b2: Tensor | None
    ) -> None:
        """The projector's weights: w1 [H, d], b1 [H], w2 [D, H], b2 [D]."""
        shapes: list[tuple[str, Tensor | None, list[Any], str]] = [
            ("w1", w1, ["H", x.shape[-1]], "d is x's last dimension")
        ]
        hidden = w1.shape[0] if w1.dim() == 2 else 0
        shapes.append(("b1", b1, [hidden], "H is w1's first dimension"))
        shapes.append(("w2", w2, ["D", hidden], "H is w1's first dimension"))
        outputs = w2.shape[0] if w2 is not None and w2.dim() == 2 else 0
        shapes.append(("b2", b2, [outputs], "D is w2's first dimension"))
        for name, tensor, expected, names in shapes:
            if tensor is not None:
                self.shape(name, tensor, expected, names)
                self.dtype(name, tensor, x.dtype, " (that of x)")
                self.device(name, tensor, x, "x")

    def directions(self, directions: Tensor, x: Tensor) -> None:
        self.shape("directions", directions, ["m", x.shape[-1]], "d is x's last dimension")
        self.float_dtype("directions", directions)
        self.device("directions", directions, x, "x")

    def metric(self, metric: Tensor, x: Tensor, w1: Tensor) -> None:
        hidden = w1.shape[0]
        self.shape("metric", metric, [hidden, hidden], "H is w1's first dimension")
        self.float_dtype("metric", metric)
        self.device("metric", metric, x, "x")

    def step(self, step: float) -> None:
        if not (math.isfinite(step) and step >= 0):
            self.fail("step", "a finite number >= 0", _number(step))

    def activation(self, activation: str) -> None:
        self.one_of("activation", activation, ACTIVATIONS)

    # -- selection --------------------------------------------------------------------------------

    def selection(self, rule: SelectRule, has_keys: bool, methods: Sequence[str] = METHODS) -> None:
        self.one_of("method", rule.method, methods)
        if not -1 <= rule.max_similarity <= 1:
            self.fail("max_similarity", "a number in [-1, 1]", _number(rule.max_similarity))
        if not 0 <= rule.tradeoff <= 1:
            self.fail("tradeoff", "a number in [0, 1]", _number(rule.tradeoff))
        self.one_of("first", rule.first, FIRST_PICKS)
        if rule.num_seed < 0:
            self.fail("num_seed", "an integer >= 0", rule.num_seed)
        if rule.num_seed > 0 and rule.first == "isolated":
            self.fail("num_seed", "0 where first is 'isolated'", rule.num_seed)
        if rule.picks_per_step < 1:
            self.fail("picks_per_step", "an integer >= 1", rule.picks_per_step)
        if rule.needs_keys and not has_keys:
            self.fail("keys", f"a tensor (method '{rule.method}' compares tokens)", "None")

    def pruning_options(self, rule: PruneRule) -> None:
        """Any method; keys default to the projector's outputs, so that there are always some."""
        self.selection(rule.select, True, METHODS + FAMILY)
        self.suppression(rule.suppression)
        if rule.method in FAMILY:
            for name in ("max_similarity", "first", "num_seed", "centre", "picks_per_step"):
                default, value = getattr(SelectRule(), name), getattr(rule.select, name)
                if value != default:
                    self.fail(
                        name, f"{_option(default)} with method '{rule.method}'", _option(value)
                    )

    def pruning_rule(self, rule: PruneRule, x: Tensor) -> None:
        self.pruning_options(rule)
        if rule.positions is not None:
            self.positions(rule.positions, x.shape[:-1], x, "x")
        self.weights(rule.weights, x.shape[:-1], x, "x")
        for name, tensor, method in (
            ("positions", rule.positions, "suppress"),
            ("weights", rule.weights, "coverage"),
        ):
            if tensor is not None and rule.method != method:
                self.fail(name, f"None with method '{rule.method}'", "a tensor")

    def scores(self, scores: Tensor, *, packed: bool = False, name: str = "scores") -> None:
        self.float_dtype(name, scores)
        self.device(name, scores, scores, name)
        if packed and (scores.dim() != 1 or min(scores.shape) < 1):
            self.fail(name, "shape [T]", _shape(scores.shape))
        if not packed and (scores.dim() not in (1, 2) or min(scores.shape) < 1):
            self.fail(name, "shape [N] or [B, N]", _shape(scores.shape))

    def keys(self, keys: Tensor, lead: Sequence[Any], like: Tensor, name: str) -> None:
        self.shape("keys", keys, [*lead, "D"], f"one key for each token of {name}")
        self.float_dtype("keys", keys)
        self.device("keys", keys, like, name)

    def masks(
        self,
        must_keep: Tensor | None,
        valid: Tensor | None,
        lead: Sequence[Any],
        like: Tensor,
        name: str,
    ) -> None:
        for argument, mask in (("must_keep", must_keep), ("valid", valid)):
            if mask is not None:
                self.shape(argument, mask, lead, f"one flag for each token of {name}")
                self.dtype(argument, mask, torch.bool)
                self.device(argument, mask, like, name)

    def weights(self, weights: Tensor | None, lead: Sequence[Any], like: Tensor, name: str) -> None:
        if weights is not None:
            self.shape("weights", weights, lead, f"one weight for each token of {name}")
            self.float_dtype("weights", weights)
            self.device("weights", weights, like, name)

    def positions(self, positions: Tensor, lead: Sequence[Any], like: Tensor, name: str) -> None:
        names = f"one position for each token of {name}"
        if positions.dim() != len(lead) + 1 or positions.shape[-1] not in (2, 3):
            expected = f"shape {_shape([*lead, '2 or 3'])} ({names})"
            self.fail("positions", expected, _shape(positions.shape))
        self.shape("positions", positions, [*lead, positions.shape[-1]], names)
        self.float_dtype("positions", positions)
        self.device("positions", positions, like, name)

    def suppression(self, options: Suppression) -> None:
        self.one_of("rule", options.rule, RULES)
        for name in ("sigma_space", "sigma_similarity"):
            sigma = getattr(options, name)
            if not (math.isfinite(sigma) and sigma > 0):
                self.fail(name, "a finite number > 0", _number(sigma))
        if not options.radius > 0:
            self.fail("radius", "a number > 0", _number(options.radius))
        if not (math.isfinite(options.strength) and options.strength >= 0):
            self.fail("strength", "a finite number >= 0", _number(options.strength))
        if not -1 <= options.threshold <= 1:
            self.fail("threshold", "a number in [-1, 1]", _number(options.threshold))

    def k(self, k: int, tokens: int) -> None:
        if not 1 <= k <= tokens:
            self.fail("k", f"1 <= k <= {tokens} (the number of tokens)", k)

    def segments(
        self, cu_tokens: Tensor, cu_keep: Tensor, total_keep: int, like: Tensor, name: str
    ) -> None:
        """Shapes and dtypes of the packed layout; ``segment_values`` checks what they hold."""
        for argument, offsets in (("cu_tokens", cu_tokens), ("cu_keep", cu_keep)):
            if offsets.dim() != 1 or offsets.shape[0] < 2:
                self.fail(argument, "shape [B + 1], B >= 1", _shape(offsets.shape))
            self.dtype(argument, offsets, torch.int32)
            self.device(argument, offsets, like, name)
        self.shape("cu_keep", cu_keep, [cu_tokens.shape[0]], "that of cu_tokens")
        tokens = like.shape[0]
        if not 1 <= total_keep <= tokens:
            self.fail(
                "total_keep", f"1 <= total_keep <= {tokens} (the number of tokens)", total_keep
            )

    # -- what only reading the data can tell; on a GPU it would synchronise, so CPU tensors only ---

    def mask_values(
        self, must_keep: Tensor | None, valid: Tensor | None, keep: Sequence[int], image: int = 0
    ) -> None:
        """``must_keep`` and ``valid`` [B, N] hold enough valid and not too many kept tokens."""
        for row, k in enumerate(keep):
            where = f"image {image + row}"
            kept = None if must_keep is None else must_keep[row]
            usable = None if valid is None else valid[row]
            if usable is not None and int(usable.sum()) < k:
                self.fail("valid", f"at least k = {k} valid tokens in {where}", int(usable.sum()))
            if kept is not None and int(kept.sum()) > k:
                self.fail("must_keep", f"at most k = {k} tokens in {where}", int(kept.sum()))
            if kept is not None and usable is not None and bool((kept & ~usable).any()):
                token = int((kept & ~usable).int().argmax())
                self.fail("must_keep", f"valid tokens only in {where}", f"invalid token {token}")

    def segment_values(
        self, cu_tokens: list[int], cu_keep: list[int], tokens: int, total_keep: int
    ) -> None:
        for argument, offsets, last, what in (
            ("cu_tokens", cu_tokens, tokens, "the number of tokens"),
            ("cu_keep", cu_keep, total_keep, "total_keep"),
        ):
            if offsets[0] != 0:
                self.fail(argument, "0 as its first value", offsets[0])
            if offsets[-1] != last:
                self.fail(argument, f"{last} ({what}) as its last value", offsets[-1])
            for i in range(len(offsets) - 1):
                if offsets[i + 1] < offsets[i]:
                    self.fail(
                        argument,
                        f"non-decreasing values, {offsets[i]} or more at position {i + 1}",
                        offsets[i + 1],
                    )
        for i in range(len(cu_tokens) - 1):
            size = cu_tokens[i + 1] - cu_tokens[i]
            keep = cu_keep[i + 1] - cu_keep[i]
            if keep > size:
                self.fail("cu_keep", f"at most {size} kept tokens in image {i}", keep)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(shape: Sequence[Any]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def _number(value: float) -> str:
    return f"{value:g}"


def _option(value: Any) -> str:
    return _number(value) if isinstance(value, float) else repr(value)
