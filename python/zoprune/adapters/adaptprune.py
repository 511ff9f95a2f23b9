"""AdaptPrune (arXiv 2503.08019, bzluan/AdaptPrune): adaptive soft non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

import zoprune_kernels

from .common import check_count, check_tensors, fail


def adapt_nms_2d(
    att_scores: Tensor,
    key_vectors: Tensor,
    distance_limit: float,
    distance_sigma: float,
    similarity_sigma: float,
    max_output_size: int,
) -> Tensor:
    """``adapt_nms_2d``: pick the token of the highest attention, lower its neighbours, repeat.

    Args:
        att_scores: [G, W], attention on the patch grid, at least 0 (the project has G = W = 24).
        key_vectors: [G W, D], a key for each patch, row after row.
        distance_limit: in patches; farther ones keep their score.
        distance_sigma: in patches, of the Gaussian of the distance.
        similarity_sigma: of the Gaussian of 1 - cosine.
        max_output_size: how many patches to keep.

    Returns:
        int64 indices [max_output_size] into the flattened grid, in the order of the picks.

    Raises:
        ValueError, RuntimeError: an argument that the above does not allow, named.
    """
    name = "adapt_nms_2d"
    sizes = check_tensors(name, att_scores=(att_scores, "G W"), key_vectors=(key_vectors, "N D"))
    rows, columns, patches = sizes["G"], sizes["W"], sizes["N"]
    if patches != rows * columns:
        expected = f"shape [{rows * columns}, D] (the size of att_scores)"
        fail(name, "key_vectors", expected, list(key_vectors.shape))
    check_count(name, "max_output_size", max_output_size, patches, "patches")
    axes = (torch.arange(n, device=att_scores.device) for n in (rows, columns))
    positions = torch.cartesian_prod(*axes).view(patches, 2).float()
    return zoprune_kernels.select_suppress(
        att_scores.flatten(),
        key_vectors,
        max_output_size,
        positions,
        radius=distance_limit,
        sigma_space=distance_sigma,
        sigma_similarity=similarity_sigma,
        sort=False,
    )


def create_gaussian_mask(
    size: int, sigma: float, max_value: float = 1.0, *, device: torch.device | str | None = None
) -> Tensor:
    """``create_gaussian_mask``: weights [size, size] that favour the centre of the grid.

    ``sigma`` is in patches; the project multiplies the attention with size 24 and sigma 12.
    """
    if size < 1:
        fail("create_gaussian_mask", "size", "an integer >= 1", size)
    if not sigma > 0:
        fail("create_gaussian_mask", "sigma", "a number > 0", sigma)
    half = size // 2
    squares = torch.linspace(-half, half, size, device=device).square()
    gaussian = torch.exp(-(squares[:, None] + squares) / (2 * sigma**2))
    return gaussian / gaussian.max() * max_value
