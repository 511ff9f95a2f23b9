"""DivPrune (arXiv 2503.02175, vbdi/divprune): max-min diversity."""

from __future__ import annotations

from torch import Tensor

import zoprune_kernels

from .common import check_tensors, fail


def DivPrune(
    visual_feature_vectors: Tensor,
    image_feature_length: int,
    cosine_matrix: None = None,
    threshold_ratio: float = 0.1,
) -> tuple[Tensor, None]:
    """``LlavaMetaForCausalLM.DivPrune``: the token farthest from all picked, again and again.

    The first pick is the token whose nearest neighbour is farthest; distances are 1 - cosine.

    Args:
        visual_feature_vectors: [N, D]; float32, float16 or bfloat16.
        image_feature_length: the number of tokens that the ratio refers to, N in the project.
        cosine_matrix: None. Distances are never stored; call again with the vectors.
        threshold_ratio: round(ratio * image_feature_length) tokens are kept, halves to even.

    Returns:
        (int64 indices [k] in the order of the picks, None in the matrix's place).

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "DivPrune"
    tokens = check_tensors(name, visual_feature_vectors=(visual_feature_vectors, "N D"))["N"]
    if cosine_matrix is not None:
        fail(name, "cosine_matrix", "None (distances are not stored)", type(cosine_matrix).__name__)
    k = round(threshold_ratio * image_feature_length)
    if not 1 <= k <= tokens:
        expected = f"a ratio of {image_feature_length} that keeps 1 to {tokens} tokens"
        fail(name, "threshold_ratio", expected, f"{threshold_ratio} ({k} tokens)")
    scores = visual_feature_vectors.new_ones(tokens)
    picks = zoprune_kernels.select(
        scores, visual_feature_vectors, k, method="maxmin", first="isolated", sort=False
    )
    return picks, None
