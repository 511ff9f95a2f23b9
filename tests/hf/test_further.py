"""What only some of the newest families have: canvases, older names, images without crops."""

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402

from tests.hf.field import BY_NAME, GREEDY  # noqa: E402
from tests.hf.further_models import NEWLINE, SLICE_END, SLICE_START  # noqa: E402
from tests.hf.hand_pruned import hand_pruned, logits_of  # noqa: E402
from tests.hf.mlp_models import IMAGE, VISION_END, VISION_START  # noqa: E402
from tests.hf.models import make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def slices(rows, columns, tokens):
    """Runs of placeholders between their marks, a newline after each row."""
    one = [SLICE_START, *[IMAGE] * tokens, SLICE_END]
    lines = [one * columns + [NEWLINE]] * rows
    return [token for line in lines for token in line][:-1]


@torch.no_grad()
@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_slices_stay_on_the_canvas_of_their_photo(mode):
    """MiniCPM-V 4.7: a photo of 2 x 2 slices behind its view as a whole, and one without any."""
    case = BY_NAME["minicpm_v4_7"]
    model = make(case)
    model.config.downsample_mode = mode
    times = 4 if mode == "4x" else 1
    sizes = torch.tensor([(8, 8), *[(8, 4)] * 4, (4, 8)])
    counts = (sizes.prod(1) // 16 * times).tolist()
    pixels = torch.randn(1, 3, 7, 7 * int(sizes.prod(1).sum()))
    whole = [VISION_START, *[IMAGE] * counts[0], VISION_END, *slices(2, 2, counts[1])]
    other = [VISION_START, *[IMAGE] * counts[-1], VISION_END]
    ids = torch.tensor([[3, 4, *whole, 5, 6, 7, *other, 8, 9]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": pixels,
        "target_sizes": sizes,
    }
    full, answer = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    zoprune.prune(model, 1.0)
    torch.testing.assert_close(model(**inputs).logits, full, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.generate(**inputs, **GREEDY), answer)
    zoprune.prune(model, 1)
    logits = model(**inputs).logits
    kept = zoprune.report(model).kept
    assert [len(k) for k in kept] == [1] * 6
    zoprune.restore(model)
    (row,) = hand_pruned(case, model, inputs, kept)
    torch.testing.assert_close(logits[0], logits_of(model, row), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("given", ["list", "none"])
def test_images_without_crops(given):
    case = BY_NAME["step3p7"]
    model = make(case)
    inputs = {"pixel_values": torch.randn(2, 3, 112, 112)}
    if given == "list":
        inputs["num_local_patches"] = [0, 0]
    ids = torch.tensor([[3, *[IMAGE] * 16, 4, *[IMAGE] * 16, 5]])
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    zoprune.prune(model, 4, per="crop")
    logits, answer = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    report = zoprune.report(model)
    assert [len(k) for k in report.kept] == [4, 4] and answer.shape[1] == 40
    assert [len(views) for views in report.views] == [1, 1]
    zoprune.restore(model)
    (row,) = hand_pruned(case, model, inputs, report.kept)
    torch.testing.assert_close(logits[0], logits_of(model, row), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_older_name_of_the_pixels_is_pruned_too():
    """What Video-LLaVA's image processor still calls them."""
    case = BY_NAME["video_llava"]
    model = make(case)
    inputs = prompt(case, model)
    zoprune.prune(model, 4)
    expected, answer = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    inputs["pixel_values_images"] = inputs.pop("pixel_values")
    assert torch.equal(model(**inputs).logits, expected)
    assert torch.equal(model.model(**inputs)[0], model.model(**inputs)[0])
    assert model.model(**inputs)[0].shape[1] == expected.shape[1]
    assert torch.equal(model.generate(**inputs, **GREEDY), answer)


@pytest.mark.parametrize("name", ["inkling2", "inkling2_loop", "exaone4_5", "hyperclovax"])
def test_gaps_are_refused_where_columns_are_counted(name):
    model = make(BY_NAME[name])
    with pytest.raises(ValueError, match="positions: expected one of compact, got 'original'"):
        zoprune.prune(model, 4, positions="original")
    assert "_zoprune" not in vars(model)


@torch.no_grad()
def test_embeddings_beside_images_of_a_model_without_videos():
    """A MiniCPM-V whose configuration names no placeholder of videos."""
    case = BY_NAME["minicpm_v"]
    model = make(case)
    model.config.video_token_id = None
    inputs = prompt(case, model)
    zoprune.prune(model, 4)
    expected = model(**inputs).logits
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(model(**inputs, inputs_embeds=embeds).logits, expected)
