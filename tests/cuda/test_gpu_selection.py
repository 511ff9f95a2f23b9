"""``select`` and ``select_varlen`` on a GPU; tests/cuda/test_shim.py has the many random cases."""

from __future__ import annotations

import pytest
import torch

import zoprune_kernels as zk
from zoprune_kernels import reference
from zoprune_kernels.testing import certify_select

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SIZES = [(1, 1), (63, 7), (577, 64), (1000, 400), (2880, 640)]


def tokens(*shape: int, dtype: torch.dtype = torch.bfloat16, dim: int = 256):
    """Scores and keys around a few centres."""
    centres = torch.randn(16, dim, device="cuda")
    keys = centres[torch.randint(16, shape, device="cuda")]
    keys = (keys + torch.randn_like(keys) / 2).to(dtype)
    return torch.rand(shape, device="cuda"), keys


def check_on_the_cpu(*tensors: torch.Tensor, **options: int) -> None:
    """A replay asks the GPU for every pick, for which processes that share one wait in turn."""
    result = certify_select(*(tensor.cpu() for tensor in tensors), **options)
    assert result.passed, result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("count", "k"), SIZES)
def test_every_pick_is_best_in_float64(count, k, dtype):
    scores, keys = tokens(count, dtype=dtype, dim=1024)
    picks = zk.select(scores, keys, k, sort=False)
    check_on_the_cpu(picks, scores, keys)


def test_a_hundred_thousand_tokens():
    scores, keys = tokens(100_000, dim=64)
    picks = zk.select(scores, keys, 500, sort=False)
    check_on_the_cpu(picks, scores, keys, rivals=2000)


OPTIONS = [
    {},
    {"method": "maxmin"},
    {"method": "mmr"},
    {"max_similarity": 0.4},
    {"first": "isolated", "method": "maxmin"},
    {"num_seed": 7, "method": "maxmin"},
    {"picks_per_step": 4},
]


@pytest.mark.parametrize("kept", [0, 0.02])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_gpu_picks_what_the_cpu_picks(options, kept):
    scores, keys = tokens(4, 300, dim=64)
    keys = keys.mul(4).round()  # small integers, whose dot products are exact
    valid = torch.rand(4, 300, device="cuda") < 0.9
    must_keep = valid & (torch.rand(4, 300, device="cuda") < kept)
    got = zk.select(scores, keys, 60, must_keep, valid, sort=False, **options)
    want = zk.select(
        *(t.cpu() for t in (scores, keys)), 60, must_keep.cpu(), valid.cpu(), sort=False, **options
    )
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_centred_keys_are_those_minus_their_mean(dtype):
    scores, keys = tokens(256, dim=100, dtype=dtype)
    keys = keys.mul(4).round()  # the mean of 256 integers is exact
    centred = keys.float() - keys.float().mean(0)
    got = zk.select(scores, keys, 60, centre=True, sort=False)
    assert torch.equal(got, zk.select(scores, centred, 60, sort=False))


@pytest.mark.parametrize("images", [1, 3, 200])
def test_a_batch_equals_its_images(images):
    scores, keys = tokens(images, 500)
    together = zk.select(scores, keys, 70, sort=False)
    alone = [zk.select(scores[i], keys[i], 70, sort=False) for i in range(images)]
    assert torch.equal(together, torch.stack(alone))
    cu_tokens = torch.arange(0, 500 * images + 1, 500, dtype=torch.int32, device="cuda")
    cu_keep = torch.arange(0, 70 * images + 1, 70, dtype=torch.int32, device="cuda")
    packed = zk.select_varlen(
        scores.flatten(), keys.flatten(0, 1), cu_tokens, cu_keep, 70 * images, sort=False
    )
    assert torch.equal(packed.view(images, 70) - cu_tokens[:-1, None], together)


def test_the_same_bits_every_time_and_on_two_streams_at_once():
    scores, keys = tokens(2880, dim=1024)
    first = zk.select(scores, keys, 640, sort=False)
    streams = [torch.cuda.Stream() for _ in range(2)]
    again = []
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for i in range(20):
        with torch.cuda.stream(streams[i % 2]):
            again.append(zk.select(scores, keys, 640, sort=False))
    torch.cuda.synchronize()
    assert all(torch.equal(first, picks) for picks in again)


@pytest.mark.parametrize("operator", [zk.select, zk.select_coverage])
def test_a_graph_follows_its_inputs(operator):
    scores, keys = tokens(577)
    operator(scores, keys, 64)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        picks = operator(scores, keys, 64)
    for _ in range(3):
        new_scores, new_keys = tokens(577)
        scores.copy_(new_scores)
        keys.copy_(new_keys)
        graph.replay()
        assert torch.equal(picks, operator(new_scores, new_keys, 64))


def test_no_synchronisation():
    scores, keys = tokens(577)
    offsets = [torch.tensor(o, dtype=torch.int32, device="cuda") for o in ([0, 577], [0, 64])]
    torch.cuda.set_sync_debug_mode("error")
    try:
        zk.select(scores, keys, 64, valid=scores > 0.1, first="isolated", centre=True)
        zk.select_varlen(scores, keys, *offsets, 64)
        zk.select_coverage(scores, keys, 64, scores, valid=scores > 0.1)
        zk.select_coverage_varlen(scores, keys, *offsets, 64)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_compiles_as_a_whole(mode):
    @torch.compile(fullgraph=True, mode=mode)
    def prune(scores, keys):
        return keys[torch.ops.zoprune.select(scores * 2, keys, 64)]

    for _ in range(3):
        scores, keys = tokens(577)
        assert torch.equal(prune(scores, keys).clone(), keys[zk.select(scores * 2, keys, 64)])


def test_opcheck():
    scores, keys = tokens(2, 63)
    torch.library.opcheck(torch.ops.zoprune.select.default, (scores, keys, 8))
    offsets = [
        torch.tensor(o, dtype=torch.int32, device="cuda") for o in ([0, 63, 126], [0, 8, 13])
    ]
    arguments = (scores.flatten(), keys.flatten(0, 1), *offsets, 13)
    torch.library.opcheck(torch.ops.zoprune.select_varlen.default, arguments)


def test_masks_that_ask_for_too_much():
    """Nothing can be checked without a synchronisation: still k distinct tokens come back."""
    scores, keys = tokens(50)
    scores[::2] = float("nan")
    few = torch.arange(50, device="cuda") < 3
    picks = zk.select(scores, keys, 20, valid=few)
    assert picks.unique().numel() == 20 and picks[:3].tolist() == [0, 1, 2]
    kept = zk.select(scores, keys, 20, must_keep=~few)
    assert kept.tolist() == list(range(3, 23))


def test_what_the_kernel_has_not_runs_as_the_reference_with_a_warning():
    scores, keys = tokens(100, dim=64)
    with pytest.warns(UserWarning, match="PyTorch reference, not CUDA: its kernel has no picks_p"):
        got = zk.select(scores, keys, 20, picks_per_step=65)
    assert torch.equal(got, reference.select(scores, keys, 20, picks_per_step=65))


FAMILY = [
    ("select_suppress", {"rule": "soft", "sigma_similarity": 0.3}),
    ("select_suppress", {"rule": "exponential"}),
    ("select_suppress", {"rule": "hard", "threshold": 0.5}),
    ("select_dpp", {}),
    ("select_coverage", {}),
]


@pytest.mark.parametrize(("name", "options"), FAMILY, ids=str)
def test_a_batch_of_the_family_equals_its_images(name, options):
    scores, keys = tokens(3, 577)
    operator = getattr(torch.ops.zoprune, name)
    packed = getattr(torch.ops.zoprune, f"{name}_varlen")
    together = operator(scores, keys, 70, sort=False, **options)
    alone = [operator(s, z, 70, sort=False, **options) for s, z in zip(scores, keys, strict=True)]
    assert torch.equal(together, torch.stack(alone))
    offsets = [torch.arange(4, dtype=torch.int32, device="cuda") * n for n in (577, 70)]
    flat = packed(scores.flatten(), keys.flatten(0, 1), *offsets, 210, sort=False, **options)
    assert torch.equal(flat.view(3, 70) - offsets[0][:-1, None], together)


def test_hard_suppression_picks_what_the_cpu_picks():
    scores, keys = tokens(4, 300, dim=64)
    keys = keys.mul(4).round()  # small integers, whose dot products are exact
    places = torch.randint(20, (4, 300, 2), device="cuda").float()
    got, want = (
        torch.ops.zoprune.select_suppress(*given, rule="hard", threshold=0.3, sort=False)
        for given in ((scores, keys, 60, places), (scores.cpu(), keys.cpu(), 60, places.cpu()))
    )
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("count", [300, 3000])  # whose cosines are kept, and computed anew
def test_coverage_picks_what_the_cpu_picks(count):
    scores, keys = tokens(2, count, dim=64)
    keys = keys.mul(4).round()  # small integers, whose dot products are exact
    weights = torch.rand_like(scores)
    valid = torch.rand_like(scores) < 0.9
    must_keep = valid & (torch.rand_like(scores) < 0.01)
    given = (scores, keys, 60, weights, must_keep, valid)
    got, want = (
        zk.select_coverage(
            *(t.to(device) if isinstance(t, torch.Tensor) else t for t in given), sort=False
        )
        for device in ("cuda", "cpu")
    )
    assert torch.equal(got.cpu(), want)


def test_dpp_spans_the_volume_that_the_cpu_spans():
    quality, keys = tokens(577)
    z = torch.nn.functional.normalize(keys.double(), dim=-1)
    volumes = []
    for device in ("cuda", "cpu"):
        picks = torch.ops.zoprune.select_dpp(quality.to(device), keys.to(device), 64).cuda()
        volumes.append(
            torch.logdet(z[picks] @ z[picks].T) + 2 * quality[picks].double().log().sum()
        )
    assert abs(volumes[0] - volumes[1]) < 1e-2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_another_device_than_the_current_one():
    scores, keys = tokens(577)
    want = zk.select(scores, keys, 64)
    got = zk.select(scores.to("cuda:1"), keys.to("cuda:1"), 64)
    assert torch.equal(got.cpu(), want.cpu()) and torch.cuda.current_device() == 0
