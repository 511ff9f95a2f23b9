"""Four ways to run one model on one prompt, all with the same weights.

``unpruned`` is the model itself. ``oracle`` is the model on a shortened prompt, its features
dropped by indices known in advance, with no code of ``zoprune`` between: what a choice for free
would take. ``ours`` chooses with ``zoprune``; ``paper`` as the paper does, in plain PyTorch.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
import zoprune
from torch import Tensor
from zoprune.hf import shortening

from ..baselines import authors_selection, paper_sensitivity, sphere
from ..shapes import DIRECTIONS, STEP

VARIANTS = ("unpruned", "oracle", "ours", "paper")
Inputs = dict[str, Tensor]
Use = Callable[[Any, Inputs], Any]  # what to do with a model and its inputs
Variant = Callable[[Use], Any]  # prepares model and inputs, then returns what the use returns


def twin(model: Any) -> Any:
    """A copy that shares the weights and nothing else: the hooks on one are not the other's."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def variants(
    model: Any, pruned: Any, inputs: Inputs, keep: int, paper: PaperSelector
) -> dict[str, Variant]:
    """The variants by name; ``pruned`` is a ``twin`` of ``model`` after ``zoprune.prune``."""

    def unpruned(use: Use) -> Any:
        return use(model, inputs)

    def ours(use: Use) -> Any:
        with zoprune.keep(keep):
            return use(pruned, inputs)

    def by_paper(use: Use) -> Any:
        paper.keep = keep
        with mock.patch.object(shortening, "select_tokens", paper):
            return use(pruned, inputs)

    ours(lambda pruned, inputs: pruned(**inputs))
    kept = zoprune.report(pruned).kept
    short = shortened(inputs, kept, model.config.image_token_id)
    dropping = dropping_features(model.model.get_image_features, kept)

    def oracle(use: Use) -> Any:
        with mock.patch.object(model.model, "get_image_features", dropping):
            return use(model, short)

    return dict(zip(VARIANTS, (unpruned, oracle, ours, by_paper), strict=True))


def shortened(inputs: Inputs, kept: Sequence[Tensor], placeholder: int) -> Inputs:
    """The prompt with as many placeholders as tokens are kept; one image for each row."""
    rows = [
        torch.cat([row[row == placeholder][: len(picks)], row[row != placeholder]])
        for row, picks in zip(inputs["input_ids"], kept, strict=True)
    ]
    ids = torch.stack(rows)
    return inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def dropping_features(encode: Callable[..., Any], kept: Sequence[Tensor]) -> Callable[..., Any]:
    """``get_image_features`` that returns only the kept ones of each image."""

    @functools.wraps(encode)  # ``generate`` reads its signature
    def get_image_features(*args: Any, **kwargs: Any) -> Any:
        output = encode(*args, **kwargs)
        in_output = hasattr(output, "pooler_output")  # transformers 5
        features = output.pooler_output if in_output else output
        features = [f[picks] for f, picks in zip(features, kept, strict=True)]
        if not in_output:
            return features
        output.pooler_output = features
        return output

    return get_image_features


class PaperSelector:
    """The paper's algorithm in place of ``zoprune``'s: 128 projector passes, the authors' loop.

    With fewer directions, ``missing`` is the time that the others would have taken so far: the
    scores' time is linear in their number.
    """

    def __init__(self, directions: int) -> None:
        self.keep = 0  # tokens for each image
        self.directions = directions
        self.missing = 0.0  # seconds

    def __call__(
        self, core: Any, pruning: Any, tokens: Any, prompt: Any, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stands in for ``zoprune.hf.shortening.select_tokens``."""
        mlp = core.multi_modal_projector
        layers = mlp.linear_1.weight, mlp.linear_1.bias, mlp.linear_2.weight, mlp.linear_2.bias
        directions = sphere(self.directions, tokens.x.shape[1]).to(tokens.x)
        start = time.perf_counter()
        scores = paper_sensitivity(tokens.x, *layers, directions, STEP)
        self.missing += (time.perf_counter() - start) * (DIRECTIONS / self.directions - 1)
        scores = tokens.arranged(scores)
        if tokens.newlines is not None:
            scores = scores.masked_fill(tokens.newlines, torch.nan)
        kept, start_token = [], 0
        for features in tokens.features:
            image = scores[start_token : start_token + len(features)]
            usable = (~image.isnan()).nonzero()[:, 0]  # newlines stay
            picks = usable[authors_selection(image[usable], features[usable], self.keep)]
            picks = torch.cat([picks, image.isnan().nonzero()[:, 0]]).sort().values
            kept.append(start_token + picks)
            start_token += len(features)
        return torch.cat(kept), scores
