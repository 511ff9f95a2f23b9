"""``video=``: what is kept of a video's tokens, against the published formulas written out here."""

import math

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
import zoprune.selection  # noqa: E402
from zoprune.hf.compat import core_of  # noqa: E402
from zoprune.hf.settings import pruning_of  # noqa: E402
from zoprune.video import RULES, choose  # noqa: E402

import zoprune_kernels  # noqa: E402
from tests.hf.hand_pruned import hand_pruned, logits_of  # noqa: E402
from tests.hf.mlp_models import IMAGE, VIDEO, VISION_END, VISION_START, qwen_images  # noqa: E402
from tests.hf.models import CASES, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
VIDEOS = [case for case in CASES if case.modality == "video" and case.frames]


# -- the formulas, for one video [T, P, D] in float64 --------------------------------------------


def evs(video, count):
    """All of the first frame, then the tokens least similar to those of the frame before."""
    frames, tokens = video.shape[:2]
    different = torch.full((frames, tokens), 255.0, dtype=torch.double)
    for t in range(1, frames):
        for p in range(tokens):
            a, b = video[t, p].double(), video[t - 1, p].double()
            different[t, p] = 1 - a @ b / (a.norm() * b.norm())
    order = sorted(range(frames * tokens), key=lambda i: (-float(different.flatten()[i]), i))
    return sorted(order[:count])


def likeness(x, centre):
    return sum(math.exp(-float((x - centre).square().sum()) / (2 * 2.0**k)) for k in range(-3, 2))


def vidcom2(video):
    """(1 + softmax(uniqueness / 0.01) - 1 / T of each frame, how typical each token is [T, P])."""
    x = video.double()
    variance = x.flatten(0, 1).var(0, correction=0)
    x = x[..., variance.argsort()[: x.shape[-1] // 2]]
    x = x / x.norm(dim=-1, keepdim=True)
    whole, parts = x.mean((0, 1)), x.mean(1)
    of_video = torch.tensor([[likeness(token, whole) for token in frame] for frame in x])
    of_frame = torch.tensor(
        [[likeness(token, m) for token in frame] for frame, m in zip(x, parts, strict=True)]
    )
    unique = -of_video.mean(1) / 0.01
    return 1 + unique.softmax(0) - 1 / len(x), of_video + of_frame


def shared_out(weights, total, capacity):
    """Webster's method: the next token goes where weight / (2 count + 1) is largest."""
    counts = [min(1, total // len(weights))] * len(weights)
    while sum(counts) < total:
        open_ = [i for i, n in enumerate(counts) if n < capacity[i]]
        best = max(open_, key=lambda i: (float(weights[i]) / (2 * counts[i] + 1), -i))
        counts[best] += 1
    return counts


def picked_by_frame(typical, counts):
    kept = []
    for t, count in enumerate(counts):
        tokens = typical.shape[1]
        order = sorted(range(tokens), key=lambda p: (float(typical[t, p]), p))
        kept += [t * tokens + p for p in order[:count]]
    return sorted(kept)


# -- the choice alone ----------------------------------------------------------------------------


def moving(frames, tokens, width=10):
    """Random tokens, each frame a little different from the one before."""
    steps = torch.randn(frames, tokens, width) * torch.rand(frames, tokens, 1)
    return torch.randn(tokens, width) + steps.cumsum(0)


def chosen(how, videos, keep, together=False):
    rule = zoprune.selection.Rule()
    return choose(how, videos, keep, together, rule, lambda: sensitivity(videos))


def sensitivity(videos):
    return torch.arange(sum(map(_size, videos))).sin() + 2


def _size(video):
    return video.shape[0] * video.shape[1]


@pytest.mark.parametrize("keep", [9, 0.3, 25, 1.0])
@pytest.mark.parametrize("frames, tokens", [(5, 7), (4, 9), (1, 30), (8, 3)])
def test_evs_keeps_what_the_formula_says(frames, tokens, keep):
    video = moving(frames, tokens)
    size = frames * tokens
    count = round(keep * size) if isinstance(keep, float) else min(keep, size)
    kept, scores = chosen("evs", [video], keep)
    assert len(kept) == count
    if count >= tokens:
        assert kept.tolist() == evs(video, count)
    else:  # too little for the first frame: its most telling tokens
        of_first = sensitivity([video])[:tokens]
        assert kept.tolist() == zoprune_kernels.select(of_first, video[0], count).tolist()
    assert scores.shape == (size,)


@pytest.mark.parametrize("keep", [3, 9, 0.3, 25, 1.0])
@pytest.mark.parametrize("frames, tokens", [(5, 7), (4, 9), (1, 30), (8, 3)])
def test_vidcom2_keeps_what_the_formula_says(frames, tokens, keep):
    video = moving(frames, tokens)
    size = frames * tokens
    count = round(keep * size) if isinstance(keep, float) else min(keep, size)
    weights, typical = vidcom2(video)
    counts = shared_out(weights, count, [tokens] * frames)
    kept, _ = chosen("vidcom2", [video], keep)
    assert kept.tolist() == picked_by_frame(typical, counts)
    # the published counts are the rounded ones, whose sum is not exact
    published = [min(round(count / frames * float(w)), tokens) for w in weights]
    if frames <= count and max(published) < tokens:
        assert all(abs(a - b) <= 1 for a, b in zip(counts, published, strict=True))
    by_rule, _ = chosen("budget", [video], keep)
    assert (by_rule // tokens).bincount(minlength=frames).tolist() == counts


@pytest.mark.parametrize("how", RULES)
def test_a_budget_over_all_videos(how):
    videos = [moving(3, 4), moving(5, 6), moving(2, 4)]
    kept, _ = chosen(how, videos, 25, together=True)
    assert len(kept) == 25 == len(kept.unique())
    if how == "evs":
        first = [range(4), range(12, 18), range(42, 46)]
        assert {i for frame in first for i in frame} <= set(kept.tolist())
    apart, _ = chosen(how, videos, 0.5)
    bounds = torch.tensor([12, 42])
    assert torch.bucketize(apart, bounds, right=True).bincount().tolist() == [6, 15, 4]


@pytest.mark.parametrize("how", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_dtype_and_still_frames(how, dtype):
    kept, scores = chosen(how, [torch.ones(4, 5, 6, dtype=dtype)], 11)
    assert len(kept.unique()) == 11 and scores.isfinite().all()


# -- in a model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=VIDEOS, ids=lambda case: case.name)
def family(request):
    return request.param, make(request.param)


@pytest.fixture
def case(family):
    yield family[0]
    zoprune.restore(family[1])


@pytest.fixture
def model(family, case):
    return family[1]


def videos_of(case, model, inputs):
    """The features of each video [T, P, D], without newlines."""
    zoprune.prune(model, 1)
    tokens = pruning_of(model).family.encode(core_of(model), inputs, "video")
    zoprune.restore(model)
    frames = case.frames[: len(tokens.features)]
    return [
        f[: len(f) // t * t].unflatten(0, (t, -1))
        for f, t in zip(tokens.features, frames, strict=True)
    ]


@torch.no_grad()
@pytest.mark.parametrize("how", ["evs", "vidcom2"])
@pytest.mark.parametrize("rows, padding", [((2,), "left"), ((1, 2), "right"), ((2, 1), "left")])
def test_a_model_keeps_these_tokens_at_their_places(case, model, how, rows, padding):
    inputs = prompt(case, model, rows, padding)
    videos = videos_of(case, model, inputs)
    zoprune.prune(model, 0.6, video=how)
    logits = model(**inputs).logits
    report = zoprune.report(model)
    kept = report.kept
    for video, tokens, scores in zip(videos, kept, report.scores, strict=True):
        size = _size(video)
        count = round(0.6 * size)
        weights, typical = vidcom2(video)
        counts = shared_out(weights, count, [video.shape[1]] * len(video))
        expected = {"evs": evs(video, count), "vidcom2": picked_by_frame(typical, counts)}[how]
        assert tokens[tokens < size].tolist() == expected
        assert tokens[tokens >= size].tolist() == list(range(size, len(scores)))  # newlines
        assert scores.isnan().sum() == len(scores) - size
    zoprune.restore(model)
    positions = "original" if case.mrope else "compact"
    hand = [logits_of(model, row) for row in hand_pruned(case, model, inputs, kept, positions)]
    for row, expected in enumerate(hand):
        where = slice(-len(expected), None) if padding == "left" else slice(0, len(expected))
        torch.testing.assert_close(logits[row, where], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("how", RULES)
def test_generation_another_budget_and_all_tokens(case, model, how):
    inputs = prompt(case, model, (1,))
    expected = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    zoprune.prune(model, 3, video=how)
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    newlines = int(zoprune.report(model).newlines[0].sum())
    assert len(zoprune.report(model).kept[0]) == 3 + newlines
    with zoprune.keep(5):
        model(**inputs)
    assert len(zoprune.report(model).kept[0]) == 5 + newlines
    with zoprune.keep(None):
        same = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(same, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_images_beside_a_video_are_picked_as_images(name):
    case = next(case for case in CASES if case.name == f"{name}-video")
    model = make(case)
    inputs, tokens = case.images(model, 1)
    images, image_tokens = qwen_images(model, 1)
    run = tokens[0] // case.frames[0]
    ids = [3, VISION_START, *[IMAGE] * image_tokens[0], VISION_END, 4]
    frame = [VISION_START, *[VIDEO] * run, VISION_END]
    whole = [VISION_START, *[VIDEO] * tokens[0], VISION_END]
    ids += [7, *frame] * case.frames[0] if case.timestamps else whole
    ids = torch.tensor([[*ids, 5]])
    inputs |= images | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["mm_token_type_ids"] = (ids == IMAGE) + 2 * (ids == VIDEO)
    if "mm_token_type_ids" not in model.model.get_rope_index.__code__.co_varnames:
        del inputs["mm_token_type_ids"]
    video = videos_of(case, model, inputs)[0]
    zoprune.prune(model, 4)
    model(**inputs)
    image = zoprune.report(model).kept[0]
    zoprune.prune(model, 4, video="vidcom2")
    model(**inputs)
    report = zoprune.report(model)
    weights, typical = vidcom2(video)
    counts = shared_out(weights, 4, [video.shape[1]] * len(video))
    assert report.kept[0].tolist() == image.tolist()
    assert report.kept[1].tolist() == picked_by_frame(typical, counts)


# -- bad values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["EVS", "", 1, True, ["evs"]])
def test_another_value_is_refused(value):
    model = make(VIDEOS[0])
    with pytest.raises(ValueError, match="video: expected None or one of 'evs', 'vidcom2'"):
        zoprune.prune(model, 4, video=value)
    assert pruning_of(model) is None


def test_what_contradicts_it_is_refused():
    model = make(VIDEOS[0])
    with pytest.raises(ValueError, match="per: expected 'image' or 'call' with video='evs'"):
        zoprune.prune(model, 4, video="evs", per="frame")
    with pytest.raises(ValueError, match="prompt_seeds: expected 0 with video='evs', got 2"):
        zoprune.prune(model, 4, video="evs", prompt_seeds=2)
    with pytest.raises(ValueError, match=r"video: expected None for LlavaForCond.*no videos"):
        zoprune.prune(make(CASES[0]), 4, video="evs")
