"""Score, keys, pick, gather: what the ``*_and_select`` operators do, once for every backend.

A :class:`Scoring` computes scores and the projector's outputs: ``Reference`` below, or Triton's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from . import namespace, philox, reference
from .checks import Call, warn_once
from .methods import Selection, published
from .reference.images import by_image, by_segment

LINEAR_PROJECTOR_WARNING = (
    "zoprune: the projector is linear (activation='identity'): every token has the same "
    "sensitivity; selecting by diversity only"
)


class Scoring(Protocol):
    """How one call's tokens are scored and projected."""

    # Whether a row of the outputs is the same to the last bit whatever the other rows are.
    rows_are_independent: bool

    def score(self, outputs: bool) -> tuple[Tensor, Tensor | None]:
        """float32 scores of all tokens, and the projector's outputs where they are wanted."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """The projector's outputs for tokens x [..., d], in x's dtype."""
        ...


def score(call: Call, scoring: Scoring) -> Tensor:
    """The scores [..., N] of a checked call."""
    warn_if_linear(call.activation)
    return scoring.score(False)[0]


def prune(call: Call, scoring: Scoring, *, dispatch: bool = False) -> tuple[Tensor, Tensor]:
    """Indices [..., k] and scores [..., N] of a checked call; [total_keep] and [T] where packed.

    ``dispatch`` calls the selection operators, whichever backend serves them; without it the picks
    are the reference's.
    """
    indices, scores, _ = _select(call, scoring, dispatch)
    return indices, scores


def prune_and_project(
    call: Call, scoring: Scoring, *, dispatch: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The kept tokens' outputs [..., k, D], or [total_keep, D], in x's dtype, and :func:`prune`."""
    indices, scores, outputs = _select(call, scoring, dispatch)
    if outputs is not None and scoring.rows_are_independent:
        return _gather(call, outputs, indices), indices, scores
    return scoring.project(_gather(call, call.x, indices)), indices, scores


def _select(call: Call, scoring: Scoring, dispatch: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Indices, scores, and all tokens' outputs where the selection compared them."""
    warn_if_linear(call.activation)
    selection = Selection(call.arguments)
    scores, outputs = scoring.score(call.keys is None and selection.select.needs_keys)
    keys = call.keys if outputs is None else outputs
    seeded = selection.name == "random" and call.seed != 0  # ``select`` has no seed
    pick = _pick_by_operator if dispatch and not seeded else _pick_by_reference
    return pick(call, selection, scores, keys), scores, outputs


def _pick_by_operator(
    call: Call, selection: Selection, scores: Tensor, keys: Tensor | None
) -> Tensor:
    operator = selection.method.operator + ("_varlen" if call.packed else "")
    count = (call.cu_tokens, call.cu_keep, call.total_keep) if call.packed else (call.k,)
    options = published(_picking(call, selection))
    return namespace.operator(operator)(scores, keys, *count, **options)


def _pick_by_reference(
    call: Call, selection: Selection, scores: Tensor, keys: Tensor | None
) -> Tensor:
    select = getattr(reference, selection.method.operator)
    options = _picking(call, selection)
    if selection.name == "random":
        options["seed"] = call.seed
    if not call.packed:
        return select(scores, keys, call.k, **options)

    def pick(keep: int, image: dict[str, Any]) -> Tensor:
        return select(image.pop("scores"), image.pop("keys"), keep, **image)

    return by_segment(call.images, {"scores": scores, "keys": keys, **options}, pick)


def _picking(call: Call, selection: Selection) -> dict[str, Any]:
    masks = {"must_keep": call.must_keep, "valid": call.valid}
    return selection.arguments | masks | {"sort": call.sort}


def _gather(call: Call, rows: Tensor, indices: Tensor) -> Tensor:
    return rows[indices] if call.packed else rows.take_along_dim(indices[..., None], -2)


class Reference:
    """Scoring by ``zoprune_kernels.reference``, image by image."""

    rows_are_independent = False

    def __init__(self, call: Call) -> None:
        self.call = call

    def score(self, outputs: bool) -> tuple[Tensor, Tensor | None]:
        scores = self._by_image(self._scorer())
        return scores, self._by_image(self._project) if outputs else None

    def project(self, x: Tensor) -> Tensor:
        return by_image(self._project, 2, x)

    def _project(self, x: Tensor) -> Tensor:
        call = self.call
        return reference.project(x, call.w1, call.b1, call.w2, call.b2, call.activation).to(x.dtype)

    def _by_image(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        x = self.call.x
        if not self.call.packed:
            return by_image(function, 2, x)
        images = self.call.images
        return torch.cat([function(x[start:end]) for start, end, _ in images if end > start])

    def _scorer(self) -> Callable[[Tensor], Tensor]:
        """Closed form with a metric, else over directions, given or drawn."""
        call = self.call
        if call.arguments.get("metric") is not None:
            return lambda x: reference.expected_sensitivity(
                x, call.w1, call.b1, call.metric, activation=call.activation
            )
        directions = call.directions
        if directions is None:
            sampling = (call.num_directions, call.w1.shape[1], call.distribution, call.seed)
            directions = philox.directions(*sampling, call.w1.device).float()
        return lambda x: reference.sensitivity(
            x, call.w1, call.b1, call.w2, directions, step=call.step, activation=call.activation
        )


def warn_if_linear(activation: str) -> None:
    """Say once that a linear projector scores all tokens alike."""
    if activation == "identity":
        warn_once(LINEAR_PROJECTOR_WARNING)
