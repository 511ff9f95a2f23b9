"""``PrunedProjector``: pruning for code bases without transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoprune_kernels.methods import ScoreOptions, SelectOptions

from . import budgets, calls, layers
from .projector import Estimator, Projector, check_linear, find_projector, prepare
from .selection import Rule, choose, warn_of_nonfinite

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from . import choices


@dataclass(frozen=True)
class Kept:
    """What a call of a ``PrunedProjector`` kept, in lists with one tensor for each image."""

    indices: Tensor  # [B, k]
    values: Tensor  # [B, N] float32

    @property
    def kept(self) -> list[Tensor]:
        """Indices of the kept tokens, int64 [k], on the CPU."""
        return list(self.indices.cpu())

    @property
    def scores(self) -> list[Tensor]:
        """Sensitivity of every token, float32 [N], on the CPU."""
        return list(self.values.cpu())

    @property
    def tokens(self) -> list[int]:
        """How many tokens each image had."""
        return [self.values.shape[1]] * self.values.shape[0]

    def __str__(self) -> str:
        pairs = zip(self.kept, self.tokens, strict=True)
        return ", ".join(f"{len(kept)} of {tokens}" for kept, tokens in pairs)


class PrunedProjector(calls.Remembered, nn.Module):
    """A projector that returns only the tokens worth keeping, and which ones they are.

    Wraps any module of the form ``[norm] -> linear 1 -> activation -> [norm] -> linear 2`` that
    maps [..., N, d] to [..., N, D], for example ``nn.Sequential(nn.Linear(1024, 4096), nn.GELU(),
    nn.Linear(4096, 4096))``. ``forward(x)`` with x [..., N, d] returns tokens [..., k, D] in their
    original order and indices int64 [..., k].

    The keywords are those of ``zoprune.prune``; ``zoprune.keep`` and ``zoprune.report`` work too.

    Args:
        module: the projector; its parameters stay shared.
        keep: tokens to keep of each image, a count or a ratio in (0, 1] given as a float.
        estimator, num_directions, step, distribution, seed, through_norm: the scores; ``estimator``
            may be an ``Estimator`` instead.
        rule: a ``Rule`` instead of the keywords of the selection.
        method, max_similarity, options: the selection, see ``zoprune_kernels.score_and_select``.
        metric: a safetensors file with the folded metric; written when it does not exist.

    Raises:
        ValueError: an argument is out of range; the module has other layers, or its output is not
            what these layers compute, or it is one linear layer and the method is "topk": all
            scores are equal.

    Example::

        layers = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 4096))
        pruned = zoprune.PrunedProjector(layers, keep=64)
        tokens, indices = pruned(torch.randn(2, 576, 1024))  # [2, 64, 4096], [2, 64]
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def __init__(
        self,
        module: nn.Module,
        keep: int | float,
        estimator: Estimator | choices.Estimation | None = None,
        rule: Rule | None = None,
        *,
        num_directions: int = ScoreOptions.num_directions,
        step: float = ScoreOptions.step,
        distribution: choices.Distribution = ScoreOptions.distribution,
        seed: int = ScoreOptions.seed,
        through_norm: bool = True,
        method: choices.Method = SelectOptions.method,
        max_similarity: float = SelectOptions.max_similarity,
        metric: str | Path | None = None,
        **options: Unpack[choices.ProjectorOptions],
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise TypeError(f"zoprune: module: expected a torch.nn.Module, got {kind}")
        self.keep = budgets.as_keep(keep)
        if not isinstance(estimator, Estimator):
            name = "closed" if estimator is None else estimator
            estimator = Estimator(name, num_directions, step, distribution, seed, through_norm)
        self.estimator = estimator
        self.rule = rule or Rule(method, max_similarity, 0, options)
        if self.rule.prompt_seeds:
            raise ValueError(
                "zoprune: prompt_seeds: expected 0, as a projector sees no prompt, got "
                f"{self.rule.prompt_seeds}"
            )
        self.module = module
        self._described = (layers.parts_of(module), find_projector(module))
        if self.projector.is_linear:
            check_linear(self.rule.method)
        self._check_layers()
        prepare(self.projector, self.estimator, self.rule, metric)

    @property
    def projector(self) -> Projector:
        """What the module's layers are now: some may have been replaced (adapters, quantisers)."""
        modules = layers.parts_of(self.module)
        known, projector = self._described
        if list(map(id, modules)) != list(map(id, known)):
            projector = find_projector(self.module)
            self._described = (modules, projector)
        return projector

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [..., k, D] of x [..., N, d], and their indices int64 [..., k]."""
        projector = self.projector
        if x.dim() < 2 or x.shape[-1] != projector.width or not x.is_floating_point():
            raise ValueError(
                f"zoprune: x: expected floats [..., N, {projector.width}], got {x.dtype} "
                f"{list(x.shape)}"
            )
        if x.numel() == 0:
            raise ValueError(f"zoprune: x: expected at least one token, got {list(x.shape)}")
        lead = x.shape[:-2]
        images = x.reshape(-1, *x.shape[-2:])  # [B, N, d]
        outputs = self.module(images)  # [B, N, D]
        batch, tokens, channels = outputs.shape
        keys = outputs.detach().reshape(batch * tokens, channels)
        if self.rule.uses_scores:
            scores = projector.score(images, self.estimator)
        else:
            scores = torch.ones(batch * tokens, device=x.device)
        units = torch.arange(batch).repeat_interleave(tokens)
        keep = budgets.of_call(self.keep)
        kept = choose(scores, keys, units, keep, self.rule).view(batch, -1)
        kept = kept - torch.arange(batch, device=kept.device)[:, None] * tokens  # [B, k]
        if scores.device.type == "cpu":  # a GPU is not waited for
            warn_of_nonfinite(scores)
        calls.remember(self, Kept(kept, scores.view(batch, tokens)))
        pruned = outputs.take_along_dim(kept[..., None], dim=1)
        return pruned.view(*lead, *pruned.shape[1:]), kept.view(*lead, -1)

    @torch.no_grad()
    def _check_layers(self) -> None:
        projector = self.projector
        with layers.undisturbed(*projector.parts, self.module):
            dtype = projector.dtype or torch.get_default_dtype()
            device = layers.execution_device(projector.linear_1)
            x = layers.probes(projector.width, dtype, device)
            expected, got = projector.project(x), self.module(x[None])
        close = got.shape == (1, *expected.shape) and torch.allclose(
            got[0].float(), expected.float(), rtol=0.05, atol=0.05 * float(expected.abs().max())
        )
        if not close:
            raise ValueError(
                f"zoprune: {type(self.module).__name__}: expected a module that computes "
                f"{projector.describe()}, got one that does more than that"
            )
