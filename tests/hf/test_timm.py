"""Perception LM and FastVLM beyond what all families are tested for: their towers are timm's."""

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from zoprune.cli import main  # noqa: E402

from tests.hf.hand_pruned import continued, hand_pruned, logits_of  # noqa: E402
from tests.hf.mlp_models import IMAGE, VIDEO  # noqa: E402
from tests.hf.models import CASES, make  # noqa: E402
from tests.hf.timm_models import CONVOLUTIONS, TIMM, fast_vlm_config  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def made(name):
    case = next(case for case in CASES if case.name == name)
    return case, make(case)


def test_the_tower_is_of_timm_where_it_is_installed():
    _, model = made("fast_vlm")
    name = type(model.model.vision_tower).__name__
    assert name == ("TimmWrapperModel" if TIMM else "ResNetModel")


def test_inspect_says_what_is_missing(tmp_path, capsys):
    made("fast_vlm")  # skips where transformers has no such class
    fast_vlm_config(CONVOLUTIONS).save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == (0 if TIMM else 2)
    output, error = capsys.readouterr()
    if TIMM:
        assert "Linear(32 -> 32, bias) -> gelu -> Linear(32 -> 32, bias)" in output
    else:
        assert "`pip install timm`" in error and error.count("\n") == 1


@torch.no_grad()
def test_images_of_several_tiles_beside_videos():
    """Rows of different images and videos: each tile and each frame keeps tokens of its own."""
    _, model = made("perception_lm")
    image, video = [IMAGE] * 16 * 2, [VIDEO] * 16 * 3
    ids = torch.tensor([[5, *image, 6, *video, 7, 8], [5, 6, *video, 7, *image, 8]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(2, 2, 3, 56, 56),
        "pixel_values_videos": torch.randn(2, 3, 3, 56, 56),
    }
    embeds = model.get_input_embeddings()(ids)
    for token, name in ((IMAGE, "pixel_values"), (VIDEO, "pixel_values_videos")):
        output = model.model.get_image_features(inputs[name], return_dict=True)
        embeds[ids == token] = output.pooler_output.flatten(0, 1)
    zoprune.prune(model, 5)
    options = dict(max_new_tokens=3, do_sample=False, suppress_tokens=[IMAGE, VIDEO])
    sequences = model.generate(**inputs, **options)
    report = zoprune.report(model)
    assert [len(kept) for kept in report.kept] == [5] * (4 + 6)
    assert report.rows == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    found = list(zip(report.rows, report.kept, strict=True))
    for row in range(2):
        for token, visuals in ((IMAGE, found[:4]), (VIDEO, found[4:])):
            units = (ids[row] == token).nonzero()[:, 0].split(16)
            own = [kept for of, kept in visuals if of == row]
            places = torch.cat([c[k] for c, k in zip(units, own, strict=True)])
            columns = (ids[row] == token) & report.columns[row]
            assert torch.equal(places, columns.nonzero()[:, 0])
        remaining = embeds[row][report.columns[row]][None]
        positions = torch.arange(remaining.shape[1])[None]
        hand = {"inputs_embeds": remaining, "position_ids": positions}
        answer = sequences[row, ids.shape[1] :]
        logits = continued(model, hand, answer)
        logits[:, [IMAGE, VIDEO]] = -torch.inf
        assert torch.equal(logits.argmax(-1), answer)


@torch.no_grad()
def test_wide_and_tall_images():
    """A tower of convolutions takes them; ``image_sizes`` goes to the language model, unread."""
    case, model = made("fast_vlm")
    for rows, columns in ((4, 8), (12, 4)):
        ids = torch.tensor([[3, 4, *[IMAGE] * rows * columns, 5]])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.randn(1, 3, 8 * rows, 8 * columns),
        }
        expected = model(**inputs).logits
        zoprune.prune(model, 1.0)
        size = torch.tensor([[8 * rows, 8 * columns]])
        logits = model(**inputs, image_sizes=size).logits
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        zoprune.prune(model, 5)
        logits = model(**inputs).logits
        report = zoprune.report(model)
        ((view,),) = report.views
        assert torch.equal(view.tokens, torch.arange(rows * columns).view(rows, columns))
        zoprune.restore(model)
        (hand,) = hand_pruned(case, model, inputs, report.kept)
        torch.testing.assert_close(logits[0], logits_of(model, hand), atol=1e-4, rtol=1e-4)
