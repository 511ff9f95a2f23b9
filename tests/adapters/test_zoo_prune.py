"""ZOO-Prune's adapter against plain fp64 loops of the published code."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoprune.adapters.zoo_prune import (
    NO_FRAME,
    get_lowrank_mm_projector,
    select_tokens_sads,
    select_tokens_sads_multi_frames,
    zoo_prune,
    zoo_prune_get_sensitivity,
)
from zoprune.projector import Estimator

import zoprune_kernels
from tests.adapters.calls import HALVES, SIZES, inputs
from zoprune_kernels.testing import certify_select

CASES = [(n, k, torch.float32) for n, k in SIZES] + [(63, 20, dtype) for dtype in HALVES]


def mm_projector(dim=8, hidden=12, dtype=torch.float32):
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)).to(dtype)


def published_sensitivity(features, projector, directions, step=0.01):
    x, u = features.double(), directions.double()[:, None]
    projector = copy.deepcopy(projector).double()
    with torch.no_grad():
        delta = projector(x + step * u) - projector(x - step * u)  # [m, N, D]
    return (delta.norm(dim=-1) / (2 * step)).mean(0)


@pytest.mark.parametrize(("n", "k", "dtype"), CASES)
def test_select_tokens_sads(n, k, dtype):
    scores, keys = inputs(n, 24, dtype)
    assert certify_select(select_tokens_sads(keys, scores, k), scores, keys).passed


def test_in_place_of_the_methods():
    class LlavaMetaForCausalLM:
        select_tokens_sads = staticmethod(select_tokens_sads)

        def prune(self, image_features, importance_scores, diverse_ratio, img_feature_len):
            return self.select_tokens_sads(
                image_features[0], importance_scores, k=int(diverse_ratio * img_feature_len)
            )

    scores, keys = inputs(576, 24)
    assert LlavaMetaForCausalLM().prune(keys[None], scores, 0.1112, 576).shape == (64,)


def test_ties_and_equal_scores_go_by_index():
    keys = torch.eye(3).repeat(2, 1)
    assert select_tokens_sads(keys, torch.ones(6), 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert select_tokens_sads(keys, torch.arange(6.0), 3).tolist() == [5, 4, 3]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("k_frame", [5, [3, 1, 9]])
def test_multi_frames(k_frame, dtype):
    scores, keys = inputs(63, 24, dtype)
    frame_label = torch.randint(3, (63,)).float()
    frame_label[::7] = NO_FRAME
    picks = select_tokens_sads_multi_frames(keys, scores, frame_label, k_frame)
    counts = [5, 5, 5] if k_frame == 5 else k_frame
    for frame, part in enumerate(picks.split(counts)):
        members = (frame_label == frame).nonzero().flatten()
        local = torch.tensor([members.tolist().index(pick) for pick in part.tolist()])
        assert certify_select(local, scores[members], keys[members]).passed


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_sensitivity(dtype):
    projector, features = mm_projector(dtype=dtype), torch.randn(3, 21, 8).to(dtype)
    scores = zoo_prune_get_sensitivity(features, projector)
    assert scores.shape == (3, 21, 1)
    directions = zoprune_kernels.directions(64, 8)
    expected = published_sensitivity(features.flatten(0, 1), projector, directions)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(scores.flatten().double(), expected, rtol=tolerance, atol=0)
    one = zoo_prune_get_sensitivity(features[0], projector)
    assert one.shape == (1, 21, 1) and torch.equal(one[0], scores[0])


def test_lowrank_projector():
    projector = mm_projector()
    before = copy.deepcopy(projector.state_dict())
    x = torch.randn(5, 8)
    with torch.no_grad():
        full = get_lowrank_mm_projector(projector, rank=8)
        w1 = torch.linalg.svd(projector[0].weight.double(), full_matrices=False)
        w2 = torch.linalg.svd(projector[2].weight.double(), full_matrices=False)
        w1, w2 = (u[:, :3] @ s[:3].diag() @ vh[:3] for u, s, vh in (w1, w2))
        low = get_lowrank_mm_projector(projector, rank=3)
        hidden = F.gelu(F.linear(x.double(), w1, projector[0].bias.double()))
        expected = F.linear(hidden, w2, projector[2].bias.double())
        torch.testing.assert_close(low(x).double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(full[0].weight, projector[0].weight)
        assert not torch.allclose(low(x), projector(x), rtol=1e-2)
    assert all(torch.equal(before[name], w) for name, w in projector.state_dict().items())


def test_zoo_prune_keeps_exactly_the_ratio():
    projector, crops = mm_projector(), torch.randn(3, 21, 8)
    assert len(zoo_prune(crops[0], projector, 0.5)) == 10  # round(10.5), halves to even
    picks = zoo_prune(crops, projector, 0.5)
    assert len(picks) == 32 and torch.equal(picks, picks.sort().values)
    assert (picks // 21).bincount().tolist() == [11, 11, 10]
    with torch.no_grad():
        features = projector(crops[0])
    scores = zoo_prune_get_sensitivity(crops[0], projector, Estimator())[0, :, 0]
    expected = select_tokens_sads(features, scores, 10).sort().values
    assert torch.equal(zoo_prune(crops[0], projector, 0.5), expected)
    assert torch.equal(zoo_prune(crops[0], projector, 0.5, image_features=features), expected)


def test_zoo_prune_compat_is_the_published_code():
    projector, crops = mm_projector(200, 210), torch.randn(3, 50, 200)
    directions = zoprune_kernels.directions(64, 200)
    with torch.no_grad():
        features = projector(crops)
    image = zoo_prune(crops[0], projector, 0.25, compat=True)
    assert len(image) == 12  # int(12.5)
    scores = published_sensitivity(crops[0], projector, directions)
    assert image.tolist() == sorted(select_tokens_sads(features[0], scores.float(), 12).tolist())

    picks = zoo_prune(crops, projector, 0.0125, compat=True)
    assert len(picks) == 36  # int(int(2880 * 0.0125) / 3) of each
    low = get_lowrank_mm_projector(projector, rank=128)
    scores = published_sensitivity(crops.flatten(0, 1), low, directions)
    label = torch.arange(3).repeat_interleave(50)
    expected = select_tokens_sads_multi_frames(features.flatten(0, 1), scores.float(), label, 12)
    assert picks.tolist() == sorted(expected.tolist())


@pytest.mark.parametrize("compat", [False, True])
def test_new_weights_are_noticed(compat):
    projector, crops = mm_projector(200, 210), torch.randn(3, 50, 200)
    with torch.inference_mode():
        zoo_prune(crops, projector, 0.03, compat=compat)
    with torch.no_grad():
        projector[0].weight.copy_(torch.randn(210, 200))
    fresh = copy.deepcopy(projector)
    after = zoo_prune(crops, projector, 0.03, compat=compat)
    assert torch.equal(after, zoo_prune(crops, fresh, 0.03, compat=compat))


F32 = torch.randn(9, 8)
LABEL = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, NO_FRAME])
BAD = [
    (lambda: select_tokens_sads(F32, F32[0], 3), r"importance_scores: .*\[9\], got \[8\]"),
    (lambda: select_tokens_sads(F32, F32[:, 0], 10), r"k: .* 1 to 9 \(the number of tokens\)"),
    (
        lambda: select_tokens_sads_multi_frames(F32, F32[:, 0], LABEL[:8], 2),
        r"frame_label: expected shape \[9\], got \[8\]",
    ),
    (
        lambda: select_tokens_sads_multi_frames(F32, F32[:, 0], LABEL, 4),
        r"k_frame: expected an integer from 1 to 3 \(the number of tokens of frame 1\), got 4",
    ),
    (
        lambda: select_tokens_sads_multi_frames(F32, F32[:, 0], LABEL, [2]),
        "k_frame: expected 2 counts",
    ),
    (
        lambda: select_tokens_sads_multi_frames(
            F32, F32[:, 0], torch.full_like(LABEL, NO_FRAME), 1
        ),
        "frame_label: expected a label other than -9999",
    ),
    (lambda: zoo_prune(F32, mm_projector(), 1.5), r"ratio: expected a number in \(0, 1\]"),
    (lambda: zoo_prune(F32, mm_projector(), 0.05, compat=True), "ratio: expected one that keeps"),
    (
        lambda: zoo_prune(F32, mm_projector(), 0.5, image_features=F32[:8]),
        r"image_features: expected shape \[9, D\], got \[8, 8\]",
    ),
    (
        lambda: zoo_prune_get_sensitivity(F32[:, :7], mm_projector()),
        "original_features: expected 8 channels .*, got 7",
    ),
    (
        lambda: zoo_prune_get_sensitivity(F32, mm_projector(dtype=torch.bfloat16)),
        "original_features: expected torch.bfloat16 .*, got torch.float32",
    ),
    (lambda: get_lowrank_mm_projector(mm_projector(), 9), "rank: expected an integer from 1 to 8"),
    (lambda: get_lowrank_mm_projector(nn.Linear(3, 3)), "mm_projector: expected two linear"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
