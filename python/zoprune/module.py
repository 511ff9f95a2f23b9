"""``PrunedProjector``: pruning for code bases without transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .projector import Estimator, check_linear, find_projector
from .selection import Rule, check_keep, choose


class PrunedProjector(nn.Module):
    """A projector that returns only the tokens worth keeping, and which ones they are.

    Wraps any module of the form ``[norm] -> linear 1 -> activation -> linear 2`` that maps
    [..., N, d] to [..., N, D], for example ``nn.Sequential(nn.Linear(1024, 4096), nn.GELU(),
    nn.Linear(4096, 4096))``. ``forward(x)`` with x [N, d] or [B, N, d] returns tokens [.., k, D] in
    their original order and indices int64 [.., k].

    Args:
        module: the projector; its parameters stay shared.
        keep: tokens to keep of each image, a count or a ratio in (0, 1] given as a float.
        estimator, rule: see ``zoprune.prune``.

    Raises:
        ValueError: the module has other layers, or its output is not what these layers compute, or
            it is one linear layer and the rule's method is "topk": all scores are equal.
    """

    def __init__(
        self,
        module: nn.Module,
        keep: int | float,
        estimator: Estimator | None = None,
        rule: Rule | None = None,
    ) -> None:
        super().__init__()
        check_keep(keep)
        self.module = module
        self.keep, self.estimator, self.rule = keep, estimator or Estimator(), rule or Rule()
        self.projector = find_projector(module)
        if self.projector.is_linear:
            check_linear(self.rule.method)
        self._check_layers()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        images = x if x.dim() == 3 else x[None]  # [B, N, d]
        outputs = self.module(images)  # [B, N, D]
        batch, tokens, channels = outputs.shape
        keys = outputs.detach().reshape(batch * tokens, channels)
        scores = self.projector.score(images, self.estimator)
        units = torch.arange(batch).repeat_interleave(tokens)
        kept = choose(scores, keys, units, self.keep, self.rule).view(batch, -1)
        kept = kept - torch.arange(batch, device=kept.device)[:, None] * tokens  # [B, k]
        pruned = outputs.take_along_dim(kept[..., None], dim=1)
        return (pruned, kept) if x.dim() == 3 else (pruned[0], kept[0])

    @torch.no_grad()
    def _check_layers(self) -> None:
        weight = self.projector.linear_1.weight
        x = torch.linspace(-1, 1, 2 * self.projector.width).view(1, 2, -1).to(weight)
        expected, got = self.projector.project(x[0]), self.module(x)
        close = got.shape == (1, *expected.shape) and torch.allclose(
            got[0].float(), expected.float(), rtol=0.05, atol=0.05 * float(expected.abs().max())
        )
        if not close:
            raise ValueError(
                f"zoprune: {type(self.module).__name__}: expected a module that computes "
                f"{self.projector.describe()}, got one that does more than that"
            )
