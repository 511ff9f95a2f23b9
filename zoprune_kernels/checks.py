"""Argument checks shared by the reference, the fake kernels and every Python backend.

Each error reads ``zoprune::<op>: <argument>: expected <what>, got <what came>`` and is a
RuntimeError. The native library raises the same text (csrc/bindings).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .methods import ACTIVATIONS as ACTIVATIONS
from .methods import DISTRIBUTIONS as DISTRIBUTIONS

Shape = list[int]
FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Output:
    """A tensor that an operator returns, before it is computed."""

    shape: Shape
    dtype: torch.dtype
    device: torch.device

    def empty(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


class Call:
    """One call of an operator: each argument, by its Python name, is an attribute."""

    def __init__(self, op: str, arguments: Mapping[str, Any]) -> None:
        self.op, self.arguments = op, arguments
        self.check = Checker(op)
        self.packed = "cu_tokens" in arguments  # images of different sizes, one after the other
        vars(self).update(arguments)

    if TYPE_CHECKING:

        def __getattr__(self, argument: str) -> Any: ...

    def kept(self, like: Tensor, name: str, tokens: Sequence[int] | None = None) -> Output:
        """The picked indices, the number kept checked: k, or what the packing says.

        ``tokens`` is the shape [N] or [B, N] of the images, that of ``like`` by default.
        """
        if self.packed:
            self.check.segments(self.cu_tokens, self.cu_keep, self.total_keep, like, name)
            return Output([self.total_keep], torch.int64, like.device)
        *images, count = like.shape if tokens is None else tokens
        self.check.k(self.k, count)
        return Output([*images, self.k], torch.int64, like.device)

    @functools.cached_property
    def images(self) -> list[Segment]:
        """The packed images, their offsets checked; reads them, so it synchronises on a GPU."""
        offsets, kept = self.cu_tokens.tolist(), self.cu_keep.tolist()
        tokens = next(iter(self.arguments.values())).shape[0]
        total = self.total_keep if "total_keep" in self.arguments else self.indices.shape[0]
        self.check.segment_values(offsets, kept, tokens, total)
        return [
            Segment(offsets[i], offsets[i + 1], kept[i + 1] - kept[i])
            for i in range(len(offsets) - 1)
        ]

    def check_indices(self, indices: Tensor, tokens: int, distinct: bool = False) -> None:
        """Kept indices in range; only on the CPU, where reading them is free."""
        if indices.device.type != "cpu" or indices.numel() == 0:
            return
        for row in indices.reshape(-1, indices.shape[-1]):
            if row.numel() and (int(row.min()) < 0 or int(row.max()) >= tokens):
                wrong = int(row.min()) if int(row.min()) < 0 else int(row.max())
                self.check.fail("indices", f"positions in [0, {tokens})", wrong)
            if distinct and row.unique().numel() < row.numel():
                repeated = int(row.sort().values[:-1][row.sort().values.diff() == 0][0])
                self.check.fail("indices", "distinct positions", f"{repeated} twice")

    def check_mask_values(self) -> None:
        """What ``must_keep`` and ``valid`` hold. Reading a GPU's data would synchronise: there only
        where the images are packed, whose offsets are read anyway."""
        masks = (self.must_keep, self.valid)
        given = next((mask for mask in masks if mask is not None), None)
        if given is None or (given.device.type != "cpu" and not self.packed):
            return
        size = given.shape[-1]
        starts = range(0, given.numel(), size)
        images = self.images if self.packed else [Segment(i, i + size, self.k) for i in starts]
        for image, (start, end, k) in enumerate(images):
            kept, usable = (None if m is None else m.flatten()[start:end] for m in masks)
            self.check.mask_values(kept, usable, k, image)


class Segment(NamedTuple):
    """One of several packed images: tokens start to end, of which ``keep`` are kept."""

    start: int
    end: int
    keep: int


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
            self.fail(argument, "float32, float16 or bfloat16", dtype_name(tensor.dtype))

    def dtype(self, argument: str, tensor: Tensor, dtype: torch.dtype, why: str = "") -> None:
        if tensor.dtype != dtype:
            self.fail(argument, f"dtype {dtype_name(dtype)}{why}", dtype_name(tensor.dtype))

    def device(self, argument: str, tensor: Tensor, like: Tensor, name: str) -> None:
        if tensor.device != like.device:
            self.fail(argument, f"device {like.device} (that of {name})", tensor.device)
        if tensor.layout != torch.strided:
            self.fail(argument, "a strided tensor", tensor.layout)

    def shape(
        self, argument: str, tensor: Tensor | None, expected: Sequence[Any], names: str
    ) -> None:
        """Require ``tensor.shape == expected``, where a string stands for any size >= 1."""
        shape = [0] if tensor is None else tensor.shape  # as the dispatcher hands None on
        same = len(shape) == len(expected) and all(
            size >= 1 if isinstance(want, str) else size == want
            for size, want in zip(shape, expected, strict=True)
        )
        if not same:
            self.fail(argument, f"shape {shape_text(expected)} ({names})", shape_text(shape))

    # -- scoring ----------------------------------------------------------------------------------

    def tokens(self, x: Tensor, *, packed: bool = False) -> None:
        self.float_dtype("x", x)
        self.device("x", x, x, "x")
        if packed and (x.dim() != 2 or min(x.shape) < 1):
            self.fail("x", "shape [T, d]", shape_text(x.shape))
        if not packed and (x.dim() not in (2, 3) or min(x.shape) < 1):
            self.fail("x", "shape [N, d] or [B, N, d]", shape_text(x.shape))

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

    # -- selection --------------------------------------------------------------------------------

    def scores(self, scores: Tensor, *, packed: bool = False, name: str = "scores") -> PerToken:
        self.float_dtype(name, scores)
        self.device(name, scores, scores, name)
        if packed and (scores.dim() != 1 or min(scores.shape) < 1):
            self.fail(name, "shape [T]", shape_text(scores.shape))
        if not packed and (scores.dim() not in (1, 2) or min(scores.shape) < 1):
            self.fail(name, "shape [N] or [B, N]", shape_text(scores.shape))
        return PerToken(self, scores, name, scores.shape)

    def merging(self, tokens: Tensor, keys: Tensor) -> PerToken:
        if tokens.dim() not in (2, 3) or min(tokens.shape) < 1:
            self.fail("tokens", "shape [N, D] or [B, N, D]", shape_text(tokens.shape))
        self.float_dtype("tokens", tokens)
        self.device("tokens", tokens, tokens, "tokens")
        each = PerToken(self, tokens, "tokens", tokens.shape[:-1])
        each.keys(keys)
        return each

    def k(self, k: int, tokens: int) -> None:
        if not 1 <= k <= tokens:
            self.fail("k", f"1 <= k <= {tokens} (the number of tokens)", k)

    def segments(
        self, cu_tokens: Tensor, cu_keep: Tensor, total_keep: int, like: Tensor, name: str
    ) -> None:
        """Shapes and dtypes of the packed layout; ``segment_values`` checks what they hold."""
        for argument, offsets in (("cu_tokens", cu_tokens), ("cu_keep", cu_keep)):
            if offsets.dim() != 1 or offsets.shape[0] < 2:
                self.fail(argument, "shape [B + 1], B >= 1", shape_text(offsets.shape))
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
        self, must_keep: Tensor | None, valid: Tensor | None, k: int, image: int
    ) -> None:
        """The masks [N] of one image hold enough valid and not too many kept tokens."""
        where = f"image {image}"
        if valid is not None and int(valid.sum()) < k:
            self.fail("valid", f"at least k = {k} valid tokens in {where}", int(valid.sum()))
        if must_keep is not None and int(must_keep.sum()) > k:
            self.fail("must_keep", f"at most k = {k} tokens in {where}", int(must_keep.sum()))
        if must_keep is not None and valid is not None and bool((must_keep & ~valid).any()):
            token = int((must_keep & ~valid).int().argmax())
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


class PerToken:
    """Checks of what there is one of for each token, of which argument ``name`` has ``lead``."""

    def __init__(self, check: Checker, like: Tensor, name: str, lead: Sequence[int]) -> None:
        self.check, self.like, self.name, self.lead = check, like, name, lead

    def one(
        self,
        argument: str,
        tensor: Tensor,
        *after: Any,
        what: str = "one",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Shape [*lead, *after], the dtype, or any of the three, and the device."""
        names = f"{what} for each token of {self.name}"
        self.check.shape(argument, tensor, [*self.lead, *after], names)
        if dtype is None:
            self.check.float_dtype(argument, tensor)
        else:
            self.check.dtype(argument, tensor, dtype)
        self.check.device(argument, tensor, self.like, self.name)

    def keys(self, keys: Tensor) -> None:
        self.one("keys", keys, "D", what="one key")

    def masks(self, must_keep: Tensor | None, valid: Tensor | None) -> None:
        for argument, mask in (("must_keep", must_keep), ("valid", valid)):
            if mask is not None:
                self.one(argument, mask, what="one flag", dtype=torch.bool)

    def weights(self, weights: Tensor | None) -> None:
        if weights is not None:
            self.one("weights", weights, what="one weight")

    def positions(self, positions: Tensor | None) -> None:
        if positions is None:
            return
        if positions.dim() != len(self.lead) + 1 or positions.shape[-1] not in (2, 3):
            shape = shape_text([*self.lead, "2 or 3"])
            expected = f"shape {shape} (one position for each token of {self.name})"
            self.check.fail("positions", expected, shape_text(positions.shape))
        self.one("positions", positions, positions.shape[-1], what="one position")


@functools.cache
def warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def shape_text(shape: Sequence[Any]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
