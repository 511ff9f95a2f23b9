"""``prune`` and ``restore``: the public face of model-level pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoprune_kernels.methods import SelectOptions

from ..projector import Estimator, Projector, check_linear
from ..selection import Rule, check_keep
from .families import family_of
from .pruned_class import pruned_class
from .settings import Pruning, pruning_of


def prune(
    model: Any,
    keep: int | float,
    *,
    per: str = "image",
    estimator: str = "closed",
    num_directions: int = 64,
    step: float = 0.01,
    distribution: str = "sphere",
    seed: int = 0,
    through_norm: bool = True,
    method: str = SelectOptions.method,
    max_similarity: float = SelectOptions.max_similarity,
    prompt_seeds: int = 0,
    positions: str | None = None,
    metric: str | Path | None = None,
    **options: Any,
) -> Any:
    """Make a Hugging Face VLM keep only some of its visual tokens, in place; returns the model.

    Args:
        model: one of ``zoprune.hf.families.SUPPORTED``.
        keep: visual tokens to keep, a count or a ratio in (0, 1] given as a float.
        per: what ``keep`` counts over: "image" (an image or a video), or "crop" or "frame" where
            the architecture has them.
        estimator: "closed" (root mean square over all directions, no sampling) or "directions"
            (the paper's estimate, with num_directions, step, distribution and seed).
        through_norm: with a norm in the projector and the closed form, perturb before the norm.
        method, max_similarity: the selection, see ``zoprune_kernels.score_and_select``.
        options: what else the method takes there: ``tradeoff`` of "mmr", ``rule``, ``threshold``
            and the others of "suppress" (by similarity alone), ``first``, ``centre`` and so on.
        prompt_seeds: first keep this many tokens of each image, those most similar to the prompt.
        positions: "compact" (as if the tokens had never been there) or "original" (gaps stay).
            Default: what the architecture needs, original for multimodal rotary positions.
        metric: a safetensors file with the folded metric; written when it does not exist.

    Raises:
        TypeError: the architecture is not supported.
        ValueError: an argument is out of range, or ``metric`` belongs to other weights.
    """
    family = family_of(model)
    check_keep(keep)
    if per not in ("image", family.groups):
        choices = "'image'" + (f" or '{family.groups}'" if family.groups else "")
        raise ValueError(f"zoprune: per: expected {choices}, got '{per}'")
    allowed = ["original"] if family.mrope else ["compact", "original"]
    positions = allowed[0] if positions is None else positions
    if positions not in allowed:
        raise ValueError(
            f"zoprune: positions: expected one of {', '.join(allowed)}, got '{positions}'"
        )
    how = Estimator(estimator, num_directions, step, distribution, seed, through_norm)
    rule = Rule(method, max_similarity, prompt_seeds, options)
    restore(model)
    projector = family.describe(model.get_submodule(family.projector))
    if projector.is_linear:
        check_linear(method)
    elif estimator == "closed":
        _prepare_metric(projector, how.through_norm, metric)
    hooks = family.hooks(model)
    vars(model)["_zoprune"] = Pruning(family, projector, keep, per, how, rule, positions, hooks)
    model.__class__ = pruned_class(model.__class__)
    return model


def restore(model: Any) -> Any:
    """Undo ``prune``; a model that is not pruned stays as it is. Returns the model."""
    pruning = pruning_of(model)
    if pruning is not None:
        for hook in pruning.hooks:
            hook.remove()
        del model._zoprune
        model.__class__ = type(model).__bases__[0]
    return model


def _prepare_metric(projector: Projector, through_norm: bool, path: str | Path | None) -> None:
    if path is not None and Path(path).exists():
        projector.load_metric(path)
    elif path is not None:
        projector.save_metric(path, through_norm)
    else:
        projector.fold(through_norm)
