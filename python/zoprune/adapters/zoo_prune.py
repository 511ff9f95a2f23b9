"""ZOO-Prune (arXiv 2509.24837, AIM-SKKU/ZOO-Prune): sensitivity-aware diverse selection."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import zoprune_kernels

from .. import layers
from ..projector import Estimator, Projector, find_projector
from .common import check_count, check_tensors, fail

NO_FRAME = -9999  # the published label of newline tokens, which belong to no crop
PUBLISHED_TOKENS = 2880  # the total that the published ratio for LLaVA-NeXT refers to
PUBLISHED_RANK = 128


def select_tokens_sads(
    visual_feature_vectors: Tensor,
    importance_scores: Tensor,
    k: int,
    threshold_ratio: float | None = None,
) -> Tensor:
    """``select_tokens_sads``: the highest w * min over the picked of (1 - cosine), again and again.

    Args:
        visual_feature_vectors: [N, D]; float32, float16 or bfloat16.
        importance_scores: [N], of which w is normalised to [0, 1].
        k: how many tokens to select.
        threshold_ratio: has no effect, as in the project.

    Returns:
        int64 indices [k] in the order of the picks.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "select_tokens_sads"
    sizes = _check_features(name, visual_feature_vectors, importance_scores)
    check_count(name, "k", k, sizes["N"], "tokens")
    return zoprune_kernels.select(importance_scores, visual_feature_vectors, k, sort=False)


def select_tokens_sads_multi_frames(
    visual_feature_vectors: Tensor,
    importance_scores: Tensor,
    frame_label: Tensor,
    k_frame: int | Sequence[int],
) -> Tensor:
    """``select_tokens_sads_multi_frames``: :func:`select_tokens_sads` in each crop or frame.

    Reads how many tokens each frame has, so it waits for a GPU, as the project's does.

    Args:
        visual_feature_vectors: [N, D]; float32, float16 or bfloat16.
        importance_scores: [N].
        frame_label: [N], which frame a token belongs to; -9999 for none, never selected.
        k_frame: how many tokens to select of every frame, or of each in ascending order.

    Returns:
        int64 indices, frame after frame, each in the order of the picks.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "select_tokens_sads_multi_frames"
    tokens = _check_features(name, visual_feature_vectors, importance_scores)["N"]
    if frame_label.shape != (tokens,):
        fail(name, "frame_label", f"shape [{tokens}]", list(frame_label.shape))
    framed = (frame_label != NO_FRAME).nonzero().flatten()
    frames, counts = frame_label[framed].unique(return_counts=True)
    sizes = counts.tolist()
    keep = [k_frame] * len(sizes) if isinstance(k_frame, int) else list(k_frame)
    if not sizes:
        fail(name, "frame_label", f"a label other than {NO_FRAME}", "none")
    if len(keep) != len(sizes):
        fail(name, "k_frame", f"{len(sizes)} counts, one for each frame", len(keep))
    for frame, k, size in zip(frames.tolist(), keep, sizes, strict=True):
        check_count(name, "k_frame", k, size, f"tokens of frame {frame:g}")
    order = framed[frame_label[framed].argsort(stable=True)]
    picks = zoprune_kernels.select_varlen(
        importance_scores[order],
        visual_feature_vectors[order],
        _offsets(sizes, order.device),
        _offsets(keep, order.device),
        sum(keep),
        sort=False,
    )
    return order[picks]


def zoo_prune_get_sensitivity(
    original_features: Tensor, mm_projector: nn.Module, estimator: Estimator | None = None
) -> Tensor:
    """``zoo_prune_get_sensitivity``: how strongly the projector reacts to each token.

    Args:
        original_features: [N_v, d] or [N_i, N_v, d] before the projector, of its dtype.
        mm_projector: any module that ``zoprune.PrunedProjector`` understands.
        estimator: ``Estimator("directions")``, 64 of them with a step of 0.01, by default.

    Returns:
        float32 [N_i, N_v, 1]; N_i = 1 for [N_v, d].

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    projector = _remembered(mm_projector, "projector", find_projector)
    name = "zoo_prune_get_sensitivity"
    pattern = "N_v d" if original_features.dim() == 2 else "N_i N_v d"
    sizes = check_tensors(name, original_features=(original_features, pattern))
    if sizes["d"] != projector.width:
        expected = f"{projector.width} channels (those of mm_projector)"
        fail(name, "original_features", expected, sizes["d"])
    dtype = projector.dtype
    if original_features.dtype != dtype:
        expected = f"{dtype} (that of mm_projector)"
        fail(name, "original_features", expected, original_features.dtype)
    scores = projector.score(original_features, estimator or Estimator("directions"))
    return scores.view(sizes.get("N_i", 1), sizes["N_v"], 1)


def get_lowrank_mm_projector(mm_projector: nn.Module, rank: int = PUBLISHED_RANK) -> nn.Module:
    """``get_lowrank_mm_projector``: both layers replaced by their best approximation of a rank.

    Args:
        mm_projector: a module with two linear layers, left as it is.
        rank: of both weights; published: 128.

    Returns:
        A copy with the truncated weights, of the same shapes. It scores differently, not faster.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "get_lowrank_mm_projector"
    projector = find_projector(mm_projector)
    if projector.is_linear or projector.merge is not None:
        fail(name, "mm_projector", "two linear layers around an activation", projector.describe())
    most = min(min(layers.sizes(layer)) for layer in (projector.linear_1, projector.linear_2))
    check_count(name, "rank", rank, most, "rows or columns")
    with torch.inference_mode(False), torch.no_grad():
        low = copy.deepcopy(mm_projector)
        copied = find_projector(low)
        for layer in (copied.linear_1, copied.linear_2):
            if not layers.is_plain(layer):
                fail(name, "mm_projector", "plain nn.Linear layers", layers.describe(layer))
            u, s, vh = torch.linalg.svd(layer.weight.float(), full_matrices=False)
            layer.weight.copy_((u[:, :rank] * s[:rank]) @ vh[:rank])
    return low


def zoo_prune(
    pre_image_features: Tensor,
    mm_projector: nn.Module,
    ratio: float,
    *,
    image_features: Tensor | None = None,
    compat: bool = False,
    seed: int = 0,
) -> Tensor:
    """Which tokens of an image to keep: the published inline code, from features to indices.

    ``compat`` does what the published code does differently:

    ================  ================================  ========================================
    of                here                              compat
    ================  ================================  ========================================
    score             closed form, all directions       mean over 64 directions, step 0.01
    k of one image    round(ratio * N)                  floor(ratio * N)
    k of crops        round(ratio * C N), shared out    floor(floor(2880 ratio) / C) each
                      exactly
    score of crops    the projector                     the projector at rank 128
    ================  ================================  ========================================

    Args:
        pre_image_features: [N, d], or [C, N, d] with C crops; before the projector, of its dtype.
        mm_projector: the model's projector.
        ratio: share of the tokens to keep, in (0, 1].
        image_features: [N, D] or [C, N, D], the projector's outputs where they are at hand.
        compat: see above.
        seed: of the directions.

    Returns:
        int64 indices, ascending, among the N or C N tokens.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "zoo_prune"
    if not 0 < ratio <= 1:
        fail(name, "ratio", "a number in (0, 1]", ratio)
    check_tensors(name, pre_image_features=(pre_image_features, "... N d"))
    if image_features is None:
        with torch.no_grad():
            image_features = mm_projector(pre_image_features)
    sizes = check_tensors(
        name,
        pre_image_features=(pre_image_features, "... N d"),
        image_features=(image_features, "... N D"),
    )
    crops, tokens = sizes.get("B", 1), sizes["N"]
    scorer = mm_projector
    if compat and crops > 1:
        scorer = _remembered(mm_projector, "low rank", get_lowrank_mm_projector)
    estimator = Estimator("directions", seed=seed) if compat else Estimator()
    scores = zoo_prune_get_sensitivity(pre_image_features, scorer, estimator).flatten()
    features = image_features.reshape(crops * tokens, -1)
    label = torch.arange(crops, device=features.device).repeat_interleave(tokens)
    keep = _crop_budgets(crops, tokens, ratio, compat)
    if min(keep) < 1:
        fail(name, "ratio", f"one that keeps a token of each of {crops} crops", ratio)
    return select_tokens_sads_multi_frames(features, scores, label, keep).sort().values


def _crop_budgets(crops: int, tokens: int, ratio: float, compat: bool) -> list[int]:
    """How many of its tokens each crop keeps."""
    if compat:
        k = int(ratio * tokens) if crops == 1 else int(ratio * PUBLISHED_TOKENS) // crops
        return [k] * crops
    total = round(ratio * crops * tokens)
    return zoprune_kernels.budget(torch.ones(crops), total, rule="equal").diff().tolist()


def _check_features(name: str, features: Tensor, scores: Tensor) -> dict[str, int]:
    return check_tensors(
        name, visual_feature_vectors=(features, "N D"), importance_scores=(scores, "N")
    )


def _offsets(sizes: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).to(device, torch.int32)


def _remembered(module: nn.Module, what: str, make: Callable[[nn.Module], Any]) -> Any:
    """``make(module)``, kept on the module for as long as it computes the same."""
    memory = vars(module).setdefault("_zoprune_adapters", {})
    parts = list(module.modules())
    known, probe, made = memory.get(what, ((), None, None))
    projector = made if isinstance(made, Projector) else find_projector(module)
    same = list(map(id, parts)) == list(map(id, known))
    if isinstance(made, Projector) and same:
        return made  # notices new weights by itself
    with layers.undisturbed(module):
        dtype = projector.dtype or torch.get_default_dtype()
        device = layers.execution_device(projector.linear_1)
        now = projector.project(layers.probes(projector.width, dtype, device))
    if not same or probe is None or not torch.equal(probe, now):
        made = make(module)
        memory[what] = (parts, now, made)
    return made
