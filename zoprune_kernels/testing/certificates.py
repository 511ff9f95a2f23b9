"""Certificates: is this selection one that exact greedy may return, within the tolerance?

Each takes the operator's result and arguments, ``[N]`` or ``[B, N]``, and replays the picks. With
``in_order=False`` (an operator called with ``sort=True``) the picks are a set, of which the replay
takes the best next. ``steps`` replays only the first picks, ``rivals`` compares with that many
random other tokens only: for images whose full replay would take minutes. An error of infinity
means a pick that no rounding explains: twice the same token, padding, a token from a lower class.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..methods import SelectOptions, SuppressOptions, in_python
from .check import Check
from .objectives import Coverage, Redundancy, State, Suppression, Volume

# Of weights in [0, 1] and cosines, absolutely; of the other selections' gains, relatively.
SELECT_TOLERANCE = 1e-5
GAIN_TOLERANCE = 1e-4
MUST_KEEP, FREE, BLOCKED, NAN = 4, 3, 2, 1


def _certificate(what: str, default: float) -> Callable[[Callable[..., Any]], Callable[..., Check]]:
    """Makes of a function of (image, the operator's arguments) that says what objective the picks
    should follow the certificate of (picks, the operator's arguments)."""

    def declare(objective: Callable[..., Any]) -> Callable[..., Check]:
        signature = inspect.signature(objective)

        @functools.wraps(objective)
        def certify(
            picks: Tensor,
            *tensors: Tensor | None,
            in_order: bool = True,
            tolerance: float = default,
            steps: int | None = None,
            rivals: int | None = None,
            **options: Any,
        ) -> Check:
            given = signature.bind(None, *tensors, **options)
            given.apply_defaults()
            arguments = given.arguments
            _, scores, *_ = arguments.values()
            masks = (arguments["must_keep"], arguments["valid"])
            with _one_thread():
                image = _Image(picks, scores, *masks, in_order, steps, rivals)
                arguments["image"] = image
                return image.replay(what, objective(*given.args, **given.kwargs), tolerance)

        own = inspect.signature(certify, follow_wrapped=False).parameters.values()
        shown = [p for p in own if p.name == "picks" or p.kind is p.KEYWORD_ONLY]
        shown += list(signature.parameters.values())[1:]
        certify.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            sorted(shown, key=lambda p: p.kind), return_annotation="Check"
        )
        return certify

    return declare


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """With one thread: the tensors are small, and waking threads costs more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_certificate("selection", SELECT_TOLERANCE)
def certify_select(
    image: _Image,
    scores: Tensor,
    keys: Tensor | None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Redundancy:
    """``select``'s picks [k] or [B, k]; ``options`` are the operator's (``method`` and so on).

    The error is the largest difference of a pick's gain from the best one's, in units of gain.
    """
    how, keys = SelectOptions(**in_python(options)), image.batched(keys)
    return Redundancy(image.scores, keys, image.valid, image.kept, image.among, how, seed)


@_certificate("suppression", GAIN_TOLERANCE)
def certify_suppress(
    image: _Image,
    scores: Tensor,
    keys: Tensor | None,
    positions: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    **options: Any,
) -> Suppression:
    """``select_suppress``'s picks; the error is relative to the best score at the time."""
    how = SuppressOptions(**options)
    keys, positions = image.batched(keys), image.batched(positions)
    return Suppression(image.scores, keys, positions, image.among, how)


@_certificate("determinant", GAIN_TOLERANCE)
def certify_dpp(
    image: _Image,
    quality: Tensor,
    keys: Tensor,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
) -> Volume:
    """``select_dpp``'s picks; the error is relative to the best q² r, by Gram-Schmidt."""
    return Volume(image.scores, image.batched(keys), image.among)


@_certificate("coverage", GAIN_TOLERANCE)
def certify_coverage(
    image: _Image,
    scores: Tensor,
    keys: Tensor,
    weights: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
) -> Coverage:
    """``select_coverage``'s picks; the error is relative to the best gain."""
    keys, weights = image.batched(keys), image.batched(weights)
    return Coverage(image.scores, keys, weights, image.valid, image.among)


class _Image:
    """One image or several of equal size, and the picks to be judged."""

    def __init__(
        self,
        picks: Tensor,
        scores: Tensor,
        must_keep: Tensor | None,
        valid: Tensor | None,
        in_order: bool,
        steps: int | None,
        rivals: int | None,
    ) -> None:
        self.lead, self.device = scores.dim() == 1, scores.device
        self.scores, self.picks = self.batched(scores), self.batched(picks)
        everything = torch.ones_like(self.scores, dtype=torch.bool)
        self.valid = everything if valid is None else self.batched(valid)
        self.kept = ~everything if must_keep is None else self.batched(must_keep)
        self.in_order = in_order
        self.steps = self.picks.shape[1] if steps is None else min(steps, self.picks.shape[1])
        self.among = torch.arange(self.scores.shape[1], device=self.device)
        if rivals is not None:
            if not self.lead:
                raise ValueError("rivals: expected one image [N], got several")
            chosen = self.picks[0] if not in_order else self.picks[0, : self.steps]
            generator = torch.Generator().manual_seed(0)
            order = torch.randperm(len(self.among), generator=generator).to(self.device)
            others = order[~torch.isin(order, self.picks[0])][:rivals]
            self.among = torch.cat([chosen, others, self.kept[0].nonzero()[:, 0]]).unique()

    def batched(self, tensor: Any) -> Any:
        """With a dimension of images, on the scores' device; None stays."""
        if tensor is None:
            return None
        tensor = tensor.detach().to(self.device)
        return tensor[None] if self.lead else tensor

    def replay(self, what: str, objective: Any, tolerance: float) -> Check:
        picks = self.picks
        count = self.scores.shape[1]
        if bool(((picks < 0) | (picks >= count)).any()):
            return Check(what, math.inf, tolerance, f"an index is not in [0, {count})", False)
        if any(len(row.unique()) < len(row) for row in picks):
            return Check(what, math.inf, tolerance, "a token was picked twice", False)
        if not bool(self.valid.gather(1, picks).all()):
            return Check(what, math.inf, tolerance, "a token is not valid", False)
        local = torch.searchsorted(
            self.among, picks[:, : None if not self.in_order else self.steps]
        )
        left, kept = self.valid[:, self.among].clone(), self.kept[:, self.among].clone()
        scored = left & ~self.scores[:, self.among].isnan()
        chosen = torch.zeros_like(left).scatter_(1, local, True)
        rows = torch.arange(len(left), device=self.device)
        index = torch.arange(left.shape[1], device=self.device)
        worst, where, exact = 0.0, "", True
        for step in range(self.steps):
            state = objective.state(step)
            gain, blocked_gain, margin = state
            rank = torch.where(scored, torch.where(margin >= 0, FREE, BLOCKED), NAN)
            rank = torch.where(left, torch.where(kept, MUST_KEEP, rank), 0)
            compared = torch.where(rank == FREE, gain, blocked_gain)
            compared = torch.where((rank == FREE) | (rank == BLOCKED), compared, 0.0)
            best = _first_best(rank, compared, index)
            pick = (
                local[:, step]
                if self.in_order
                else _first_best(torch.where(chosen, rank, 0), compared, index)
            )
            exact &= bool((pick == best).all())
            usable = left & scored & ~kept
            error = _regret(objective, state, rows, pick, best, rank, usable)
            if float(error.max()) > worst:
                worst, image = float(error.max()), int(error.argmax())
                where = f"pick {step}, token {int(self.among[pick[image]])}"
                where += f" in place of {int(self.among[best[image]])}"
                where += "" if self.lead else f", image {image}"
            left[rows, pick], kept[rows, pick], chosen[rows, pick] = False, False, False
            objective.pick(rows, pick)
        return Check(what, worst, tolerance, where, exact)


def _regret(
    objective: Any,
    state: State,
    rows: Tensor,
    pick: Tensor,
    best: Tensor,
    rank: Tensor,
    usable: Tensor,
) -> Tensor:
    """How much gain each image's pick missed, [B]; rounding may have decided a token's class."""
    free = usable & (state.margin >= objective.slack)
    blocked = usable & (state.margin < -objective.slack)
    any_free, surely_blocked = free.any(1), blocked[rows, pick]

    def missed(values: Tensor, pool: Tensor) -> Tensor:
        top = torch.where(pool, values, -math.inf).amax(1)
        short = (top - values[rows, pick]).clamp_min(0)
        return short / top.abs().clamp_min(1e-3) if objective.relative else short

    among_blocked = torch.where(surely_blocked, missed(state.blocked, blocked), 0.0)
    among_free = torch.where(surely_blocked, math.inf, missed(state.gain, free))
    by_gain = torch.where(any_free, among_free, among_blocked)
    by_gain = torch.where(usable[rows, pick], by_gain, math.inf)
    in_class = rank[rows, best]
    by_index = torch.where(pick == best, 0.0, math.inf)  # must_keep and NaN
    return torch.where((in_class == FREE) | (in_class == BLOCKED), by_gain, by_index)


def _first_best(rank: Tensor, compared: Tensor, index: Tensor) -> Tensor:
    """Best class, then highest gain, then lowest index, [B]."""
    top = rank == rank.amax(1, keepdim=True)
    highest = torch.where(top, compared, -math.inf).amax(1, keepdim=True)
    return torch.where(top & (compared == highest), index, len(index)).amin(1)
