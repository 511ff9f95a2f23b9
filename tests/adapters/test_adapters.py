"""Adapters with the signatures of published code, against plain fp64 loops of that code."""

import importlib
import sys

import pytest
import torch
from zoprune.adapters.adaptprune import adapt_nms_2d, create_gaussian_mask
from zoprune.adapters.cdpruner import relevance, select_index_masks
from zoprune.adapters.divprune import DivPrune
from zoprune.adapters.mmr import maximal_marginal_relevance
from zoprune.adapters.visionzip import contextual_tokens, dominant_indices, visionzip

from tests.adapters.calls import HALVES, SIZES, check_greedy, cosines, inputs, max_similarity
from zoprune_kernels.testing import certify_select

CASES = [(n, k, torch.float32) for n, k in SIZES] + [(63, 20, dtype) for dtype in HALVES]


def test_import_needs_no_transformers(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "zoprune"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    adapters = importlib.import_module("zoprune.adapters")
    assert all(hasattr(adapters, name) for name in adapters.__all__)


# -- DivPrune --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k", "dtype"), CASES)
def test_divprune(n, k, dtype):
    _, keys = inputs(n, 24, dtype)
    picks, cosine_matrix = DivPrune(keys, n, None, threshold_ratio=k / n)
    assert picks.shape == (k,) and picks.dtype == torch.int64 and cosine_matrix is None
    rule = {"method": "maxmin", "first": "isolated"}
    assert certify_select(picks, torch.ones(n), keys, **rule).passed


def test_divprune_in_place_of_the_method():
    class LlavaMetaForCausalLM:
        DivPrune = staticmethod(DivPrune)

        def prune(self, new_input_embeds, img_feature_len, diverse_ratio, cosine_matrix=None):
            visual_tokens = new_input_embeds[0][3 : 3 + img_feature_len]
            selected, cosine_matrix = self.DivPrune(
                visual_tokens, img_feature_len, cosine_matrix, threshold_ratio=diverse_ratio
            )
            selected += 3
            last = torch.arange(3 + img_feature_len, new_input_embeds.shape[1])
            keep_indexs = torch.cat((torch.arange(3), selected, last))
            return new_input_embeds[:, keep_indexs.sort().values]

    kept = LlavaMetaForCausalLM().prune(torch.randn(1, 3 + 63 + 5, 16), 63, 0.11)
    assert kept.shape == (1, 3 + 7 + 5, 16)  # round(6.93)


def test_divprune_never_repeats_a_token():
    """Once all distances are 0, the published loop returns a token that it has."""
    keys = torch.eye(3).repeat(3, 1)
    picks, _ = DivPrune(keys, 9, threshold_ratio=1.0)
    assert picks.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


# -- CDPruner --------------------------------------------------------------------------------------


def embeddings(n, dtype):
    return (torch.randn(*shape).to(dtype) for shape in ((2, n, 24), (2, n, 16), (3, 16)))


@pytest.mark.parametrize(("n", "k", "dtype"), CASES[1:])
def test_cdpruner(n, k, dtype):
    k = min(k, 20)  # the features span 24 dimensions
    features, image_embeds, text_embeds = embeddings(n, dtype)
    index_masks = select_index_masks(features, image_embeds, text_embeds, visual_token_num=k)
    assert index_masks.shape == (2, n) and index_masks.dtype == torch.bool
    for image in range(2):
        r = -cosines(image_embeds[image], text_embeds).mean(-1)
        r = (r - r.min() + 1e-6) / (r.max() - r.min())
        kernel = r[:, None] * cosines(features[image]) * r
        left, rows, picks = kernel.diagonal().clone(), [], []
        for _ in range(k):
            j = int(left.argmax())
            row = (kernel[j] - sum(c[j] * c for c in rows)) / left[j].sqrt()
            rows.append(row)
            left = (left - row.square()).index_fill(0, torch.tensor([j]), -torch.inf)
            picks.append(j)
        assert index_masks[image].nonzero().flatten().tolist() == sorted(picks)
    one = select_index_masks(features[:1], image_embeds[:1], text_embeds, k)
    assert torch.equal(one[0], index_masks[0])


def test_cdpruner_where_published_code_returns_nan():
    features, image_embeds, text_embeds = embeddings(9, torch.float32)
    same = image_embeds[:, :1].expand(2, 9, 16)
    assert torch.equal(relevance(same, text_embeds), torch.ones(2, 9))
    assert select_index_masks(features[:, :1], same[:, :1], text_embeds, 1).all()
    duplicates = features[:, :1].expand(2, 9, 24)
    index_masks = select_index_masks(duplicates, image_embeds, text_embeds, 4)
    best = relevance(image_embeds, text_embeds).topk(4).indices.sort().values
    assert torch.equal(index_masks.nonzero()[:, 1].view(2, 4), best)


# -- AdaptPrune ------------------------------------------------------------------------------------


PUBLISHED = {"distance_limit": 5, "distance_sigma": 1.5, "similarity_sigma": 0.05}
WIDE = {"distance_limit": 2.5, "distance_sigma": 3.0, "similarity_sigma": 0.5}


@pytest.mark.parametrize(
    ("rows", "columns", "k", "dtype", "options"),
    [
        (1, 1, 1, torch.float32, PUBLISHED),
        (24, 24, 57, torch.float32, PUBLISHED),
        (7, 9, 20, torch.float32, WIDE),
        *((7, 9, 20, dtype, WIDE) for dtype in HALVES),
    ],
)
def test_adaptprune(rows, columns, k, dtype, options):
    scores, keys = inputs(rows * columns, 24, dtype)
    image_attention_map = scores.view(rows, columns)
    picks = adapt_nms_2d(image_attention_map, keys, **options, max_output_size=k)
    similarity = cosines(keys)
    x, y = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    place = torch.stack([x.flatten(), y.flatten()], 1).double()

    def gains(picked):
        s = scores.double()
        for pick in picked:
            distance = (place - place[pick]).norm(dim=1)
            decay = torch.exp(-(distance**2) / (2 * options["distance_sigma"] ** 2))
            unlike = (1 - similarity[pick]) / options["similarity_sigma"]
            decay *= torch.exp(-(unlike**2) / 2)
            s = torch.where(distance <= options["distance_limit"], s * (1 - decay), s)
        return s

    check_greedy(picks, gains, 1e-5)


def test_gaussian_mask_is_the_published_one_and_centred():
    coords = torch.linspace(-12, 12, 24)
    x, y = torch.meshgrid(coords, coords, indexing="ij")
    mask = torch.exp(-(x**2 + y**2) / (2 * 12.0**2))
    torch.testing.assert_close(create_gaussian_mask(24, 12.0), mask / mask.max())
    odd = create_gaussian_mask(7, 2.0, max_value=3.0)
    assert odd[3, 3] == 3 and torch.equal(odd, odd.flip(0, 1)) and torch.equal(odd, odd.T)


# -- VisionZip -------------------------------------------------------------------------------------


def published_visionzip(hidden, attention, metric, dominant_num, contextual_num):
    """One image [L, C] in fp64."""
    hidden, metric = hidden.double(), metric.double()
    scores = attention[:, 0, 1:].double().sum(0)
    top = scores.argsort(descending=True, stable=True)[:dominant_num] + 1
    all_indices = [0, *top.tolist()]
    rest = [i for i in range(len(hidden)) if i not in all_indices]
    targets = rest[:: max(1, len(rest) // contextual_num)][:contextual_num]
    nearest = cosines(metric, metric[targets]).argmax(1)
    contextual = []
    for t, target in enumerate(targets):
        given = [i for i in rest if i not in targets and nearest[i] == t]
        mean = hidden[given].mean(0) if given else torch.zeros_like(hidden[0])
        contextual.append(hidden[target] + mean)
    return torch.cat([hidden[sorted(all_indices)], torch.stack(contextual)]), all_indices


@pytest.mark.parametrize(
    ("length", "dominant", "contextual", "dtype"),
    [
        (3, 1, 1, torch.float32),
        (64, 10, 53, torch.float32),
        (577, 54, 10, torch.float32),
        (64, 10, 7, torch.float16),
        (64, 10, 7, torch.bfloat16),
    ],
)
def test_visionzip(length, dominant, contextual, dtype):
    hidden, metric = (torch.randn(2, length, dim).to(dtype) for dim in (20, 16))
    attention = torch.randn(2, 4, length, length).softmax(-1).to(dtype)
    saved, all_indices = visionzip(hidden, attention, metric, dominant, contextual)
    assert saved.dtype == dtype and saved.shape == (2, 1 + dominant + contextual, 20)
    for image in range(2):
        expected, indices = published_visionzip(
            hidden[image], attention[image], metric[image], dominant, contextual
        )
        assert all_indices[image].tolist() == indices
        torch.testing.assert_close(saved[image], expected.to(dtype))


def test_visionzip_merges_equal_keys_into_the_first_target():
    """Also keys of length zero, which the published division turns into NaN."""
    hidden, all_indices = torch.randn(1, 9, 5), torch.tensor([[0, 4]])
    for metric in (torch.ones(1, 9, 3), torch.zeros(1, 9, 3)):
        first, second = contextual_tokens(hidden, metric, all_indices, 2)[0]
        torch.testing.assert_close(first, hidden[0, 1] + hidden[0, [2, 3, 6, 7, 8]].mean(0))
        assert torch.equal(second, hidden[0, 5])


# -- MMR -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "dtype", "lambda_mult"),
    [(*case, 0.7) for case in CASES] + [(*CASES[1], end) for end in (0.0, 1.0)],
)
def test_mmr(n, k, dtype, lambda_mult):
    _, keys = inputs(n, 24, dtype)
    query = torch.randn(24).to(dtype)
    picks = maximal_marginal_relevance(query, keys, lambda_mult, k)
    q, similarity = cosines(keys, query[None])[:, 0], cosines(keys)

    def gains(picked):
        if not picked:
            return q.clone()
        return lambda_mult * q - (1 - lambda_mult) * max_similarity(similarity, picked)

    check_greedy(picks, gains, 1e-5)


def test_mmr_degenerate():
    keys = torch.eye(4)
    assert maximal_marginal_relevance(torch.ones(4), keys, 1.0, 9).tolist() == [0, 1, 2, 3]
    keys[2] = keys[1]
    assert maximal_marginal_relevance(torch.ones(4), keys, 0.5, 3).tolist() == [0, 1, 3]


# -- errors ----------------------------------------------------------------------------------------

F32, F64 = torch.randn(9, 4), torch.randn(9, 4).double()
BAD = [
    (lambda: DivPrune(F32[0], 9), r"DivPrune: visual_feature_vectors: .*\[N, D\], got \[4\]"),
    (lambda: DivPrune(F64, 9), "DivPrune: visual_feature_vectors: .*bfloat16, got torch.float64"),
    (lambda: DivPrune(F32, 9, F32), "cosine_matrix: expected None .*, got Tensor"),
    (lambda: DivPrune(F32, 9, threshold_ratio=0.01), "threshold_ratio: .* 1 to 9 .*0 tokens"),
    (
        lambda: select_index_masks(F32[None], F32[None, :8], F32, 3),
        r"image_embeds: expected shape \[1, 9, C\], got \[1, 8, 4\]",
    ),
    (lambda: select_index_masks(F32[None], F32[None], F32, 10), "visual_token_num: .*1 to 9"),
    (lambda: relevance(F32[None], F32[:, :3]), r"text_embeds: .*\[M, 4\], got \[9, 3\]"),
    (
        lambda: adapt_nms_2d(F32[:3, :2], F32, 5, 1.5, 0.05, 3),
        r"key_vectors: expected shape \[6, D\] .*, got \[9, 4\]",
    ),
    (lambda: adapt_nms_2d(F32[:3, :3], F32, 5, 1.5, 0.05, 0), "max_output_size: .*, got 0"),
    (lambda: create_gaussian_mask(3, 0.0), "sigma: expected a number > 0, got 0.0"),
    (lambda: dominant_indices(F32[None, None], 3), r"attn_weights: .*\[B, heads, L, L\]"),
    (
        lambda: contextual_tokens(F32[None], F32[None], torch.tensor([[0, 1]]), 8),
        "contextual_num: expected an integer from 1 to 7",
    ),
    (
        lambda: contextual_tokens(F32[None], F32[None], torch.tensor([0, 1]), 8),
        r"all_indices: expected shape \[1, k\], got \[2\]",
    ),
    (
        lambda: contextual_tokens(F32[None], F32[None], torch.tensor([[0, 1]]).int(), 7),
        "all_indices: expected dtype torch.int64, got torch.int32",
    ),
    (lambda: maximal_marginal_relevance(F32[0], F32, 1.5), r"lambda_mult: .*\[0, 1\], got 1.5"),
    (lambda: maximal_marginal_relevance([1.0], F32), "query_embedding: .*tensor, got list"),
    (lambda: maximal_marginal_relevance(F32[0], F32, k=0), "k: expected an integer from 1"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
