"""Pictures of reports: a red square in a grey photo shows in color where its token is kept.

The photo goes through the model's own image processor and vision tower. The token that the square
changes most is kept by hand, so the picture can only be right if the way from pixels to tokens and
the way back agree.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from PIL import Image  # noqa: E402
from zoprune.cli import overlay  # noqa: E402
from zoprune.hf.compat import core_of  # noqa: E402
from zoprune.hf.reports import Report  # noqa: E402
from zoprune.hf.settings import pruning_of  # noqa: E402

from tests.hf.linear_models import VIEW  # noqa: E402
from tests.hf.models import CASES, build, placeholders, prompt  # noqa: E402
from tests.hf.timm_models import TIMM  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
PINPOINTS = [[28, 56], [56, 28], [56, 56]]
SQUARE = {"height": 28, "width": 28}
LARGE = {"height": 56, "width": 56}
QWEN = ("Qwen2VL", dict(patch_size=7, merge_size=2, min_pixels=14 * 14, max_pixels=112 * 112))
SPLIT = dict(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
PROCESSORS = {
    "llava": ("CLIP", dict(size={"shortest_edge": 28}, crop_size=28)),
    "pixtral": ("Pixtral", dict(size={"longest_edge": 56}, patch_size=7)),
    "mistral3": ("Pixtral", dict(size={"longest_edge": 56}, patch_size=14)),
    "llava_next": (
        "LlavaNext",
        dict(size={"shortest_edge": 28}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS),
    ),
    "llava_onevision": ("LlavaOnevision", dict(size=SQUARE, image_grid_pinpoints=PINPOINTS)),
    "llava_onevision-video": ("Siglip", dict(size=SQUARE)),
    "llava_next_video": (
        "LlavaNext",
        dict(size={"shortest_edge": 28}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS),
    ),
    "llava_next_video-video": ("Siglip", dict(size=SQUARE)),
    "internvl": ("GotOcr2", dict(size={"height": 56, "width": 56})),
    "paligemma": ("Siglip", dict(size=SQUARE)),
    "gemma3": ("Gemma3", dict(size={"height": 56, "width": 56})),
    "idefics3": ("Idefics3", SPLIT),
    "smolvlm": ("Idefics3", SPLIT),
    "lighton_ocr": ("Pixtral", dict(size={"longest_edge": 56}, patch_size=14)),
    "mistral_large4": ("Pixtral", dict(size={"longest_edge": 56}, patch_size=14)),
    "vipllava": ("CLIP", dict(size={"shortest_edge": 28}, crop_size=28)),
    "deepseek_vl": ("Siglip", dict(size=SQUARE)),
    **{name: ("Siglip", dict(size=LARGE)) for name in ("aya_vision", "cohere2_vision", "llama4")},
    "qianfan_ocr": ("GotOcr2", dict(size=LARGE)),
    "janus": ("Siglip", dict(size=SQUARE)),
    "fast_vlm": ("Siglip", dict(size={"height": 32, "width": 32})),
    "got_ocr2": ("Siglip", dict(size={"height": 112, "width": 112})),
    "video_llava": ("CLIP", dict(size={"shortest_edge": 28}, crop_size=28)),
    "video_llava-video": ("CLIP", dict(size={"shortest_edge": 28}, crop_size=28)),
}
# photos are wide, to tell rows from columns, but for those that are squeezed or scaled down
ONE_FRAME = ("cosmos3_edge", "video_llama3", "video_llama3-video")
PATCHED = (
    "perception_lm",
    "perception_lm-video",
    "minicpm_v",
    "minicpm_v-video",
    "minicpm_ocr",
    "minicpm_v4_7",
    "minicpm_v4_7-video",
    "inkling2",
    "inkling2_loop",
    "step3p7",
    "kimi_k25",
    "paddleocr_vl",
    "lfm2_vl",
    "gemma4",
    "gemma4-video",
)
SIZES = {
    "llava": (56, 56),
    "vipllava": (56, 56),
    "deepseek_vl": (56, 56),
    "llava_next": (112, 28),
    "llava_next_video": (112, 28),
    "llava_next_video-video": (56, 56),
    "llava_onevision": (112, 112),
}
SIZES |= {name: (56, 56) for name in ("llava_onevision-video", "internvl", "paligemma", "gemma3")}
SIZES |= {
    n: (56, 56) for n in ("perception_lm", "aya_vision", "cohere2_vision", "llama4", "qianfan_ocr")
}
SIZES |= {n: (56, 56) for n in ("perception_lm-video", "janus", "video_llava", "video_llava-video")}
SIZES |= {"fast_vlm": (64, 64), "got_ocr2": (112, 112), "step3p7": (112, 112)}
HALVES = [(0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 1)]  # left, top, right, bottom of each view


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def family(request):
    case = request.param
    name, options = PROCESSORS.get(case.name, QWEN)
    torch.manual_seed(0)
    model = zoprune.prune(build(case).eval(), 1)
    if case.name in PATCHED:
        return case, model, Patches(case.name)
    try:
        processor = getattr(transformers, f"{name}ImageProcessor")(**options)
        return (
            case,
            model,
            (OneFrame(processor, case.name) if case.name in ONE_FRAME else processor),
        )
    except ImportError as error:  # torchvision, for some processors of some versions
        pytest.skip(str(error).strip().splitlines()[0])


class Patches:
    """Pictures cut into patches of 7 x 7 row by row, as several processors lay them out."""

    def __init__(self, name):
        self.name = name
        self.resize = transformers.SiglipImageProcessor(do_resize=False)
        self.do_normalize = True
        self.image_mean, self.image_std = self.resize.image_mean, self.resize.image_std

    def __call__(self, images, return_tensors):
        (pixels,) = torch.as_tensor(np.array(self.resize(images=images)["pixel_values"]))
        if self.name.startswith("perception_lm"):
            return {"pixel_values": pixels[None, None]}
        if self.name == "step3p7":
            return {"pixel_values": pixels[None]}
        rows, columns = pixels.shape[1] // 7, pixels.shape[2] // 7
        patches = pixels.unflatten(2, (columns, 7)).unflatten(1, (rows, 7))  # [3, r, 7, c, 7]
        patches = patches.permute(1, 3, 0, 2, 4).flatten(0, 1)
        if self.name in ("kimi_k25", "paddleocr_vl"):
            grid = torch.tensor([[1, rows, columns]])
            return {"pixel_values": patches, "image_grid_thw": grid}
        if self.name.startswith("inkling2"):
            tokens = pixels.unflatten(2, (columns // 2, 14)).unflatten(1, (rows // 2, 14))
            grid = torch.tensor([[1, rows // 2, columns // 2]])
            tokens = tokens.permute(1, 3, 2, 4, 0).flatten(0, 1)
            return {"pixel_values": tokens, "image_grid_thw": grid}
        if self.name.startswith("minicpm"):
            strip = patches.permute(1, 2, 0, 3).flatten(2)[None]
            return {"pixel_values": strip, "target_sizes": torch.tensor([[rows, columns]])}
        patches = patches.permute(0, 2, 3, 1).flatten(1)[None]
        if self.name == "lfm2_vl":
            mask = torch.ones(1, rows * columns, dtype=torch.int)
            shapes = torch.tensor([[rows, columns]])
            return {
                "pixel_values": patches,
                "spatial_shapes": shapes,
                "pixel_attention_mask": mask,
            }
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
        return {"pixel_values": patches, "image_position_ids": places[None]}


class OneFrame:
    """Qwen's processor, of whose pairs of frames these models have one; 2 x 2 patches a token."""

    def __init__(self, processor, name):
        self.processor, self.name = processor, name
        self.do_normalize = True
        self.image_mean, self.image_std = processor.image_mean, processor.image_std

    def __call__(self, images, return_tensors):
        inputs = dict(self.processor(images=images, return_tensors=return_tensors))
        pairs = torch.as_tensor(inputs["pixel_values"]).unflatten(1, (3, 2, -1))
        if self.name == "cosmos3_edge":  # channels last
            return inputs | {"pixel_values": pairs[:, :, 0].transpose(1, 2).flatten(1)}
        merge = {"image_merge_sizes": torch.tensor([2])}
        return inputs | merge | {"pixel_values": pairs[:, :, 0].flatten(1)}


def photo(width, height, square=True):
    """Grey, darker at the left and the top; with a red square of 14 x 14 pixels at (28, 14).

    Its upper right quarter is black, so that each patch within a merged token has its place.
    """
    across, down = np.linspace(0, 70, width), np.linspace(60, 130, height)
    pixels = (across + down[:, None]).astype(np.uint8)[..., None].repeat(3, axis=2)
    if square:
        pixels[14:28, 28:42] = (230, 10, 10)
        pixels[14:21, 35:42] = 0
    return Image.fromarray(pixels)


def model_inputs(case, processor, picture):
    """What the processor makes of it; the second of two or more frames of a video."""
    inputs = dict(processor(images=[picture], return_tensors="pt"))
    inputs = {name: torch.as_tensor(value) for name, value in inputs.items()}
    if case.modality == "image":
        return inputs
    if not case.frames:  # a frame is an image of its own
        names = {"pixel_values": "pixel_values_videos", "target_sizes": "target_sizes_videos"}
        return {names[name]: value for name, value in inputs.items()}
    grey = [photo(*picture.size, square=False)]
    before = processor(images=grey, return_tensors="pt")["pixel_values"]
    frames = torch.cat([before, inputs["pixel_values"]])
    if "image_grid_thw" in inputs:
        grid = inputs["image_grid_thw"] * torch.tensor([2, 1, 1])
        merge = {"video_merge_sizes": torch.tensor([2])} if "image_merge_sizes" in inputs else {}
        return {"pixel_values_videos": frames, "video_grid_thw": grid} | merge
    if "image_position_ids" in inputs:
        places = inputs["image_position_ids"].repeat(2, 1, 1)
        count = torch.tensor([2])
        return {
            "pixel_values_videos": frames,
            "video_position_ids": places,
            "num_frames_per_video": count,
        }
    return {"pixel_values_videos": frames[None]}


@pytest.fixture(scope="module")
def planted(family):
    """(photo, report of a call, how much the square changes each token)."""
    case, model, processor = family
    picture = photo(*SIZES.get(case.name, (112, 56)))
    inputs = model_inputs(case, processor, picture)
    plain = model_inputs(case, processor, photo(*picture.size, square=False))
    with torch.no_grad():
        if case.views:  # the model finds the views in the prompt
            ids = placeholders(case, 2, 3 * VIEW)
            inputs["input_ids"] = plain["input_ids"] = torch.tensor([ids])
        encode = pruning_of(model).family.encode
        new, old = (
            encode(core_of(model), given, case.modality).features[0] for given in (inputs, plain)
        )
        if not case.views:
            ids = placeholders(case, 0, len(new))
        inputs["input_ids"] = torch.tensor([[3, *ids, 4]])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if case.mrope or case.typed:
            kind = 2 if case.modality == "video" else 1
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == case.placeholder) * kind
        model(**inputs)
    return picture, zoprune.report(model), (new - old).norm(dim=-1)


@torch.no_grad()
def test_every_token_has_its_place(family):
    """In a batch of three images, each image's views hold each of its tokens once."""
    case, model, _ = family
    model(**prompt(case, model, (2, 1)))
    report = zoprune.report(model)
    assert len(report.views) == len(report.scores) == 3
    for views, scores in zip(report.views, report.scores, strict=True):
        placed = torch.cat([view.tokens.flatten() for view in views])
        expected = (~scores.isnan()).nonzero()[:, 0]
        if case.name == "video_llava-video":  # class tokens have none
            expected = expected[expected % 17 > 0]
        assert torch.equal(placed.sort().values, expected)
    report.picture(2)


def redness(image):
    red, green, blue = np.asarray(image).astype(int).transpose(2, 0, 1)
    return (red - np.maximum(green, blue)) > 80


def test_views_show_the_photo(family, planted):
    case, _, processor = family
    picture, report, _ = planted
    parts = HALVES if case.views else [(0, 0, 1, 1)] * len(report.views[0])
    views = report.views[0][-len(parts) :]
    shown = overlay.photos(views, processor)
    if case.frames:
        assert not redness(shown[0]).any()
        shown, parts = shown[-1:], parts[-1:]
    for image, part in zip(shown, parts, strict=True):
        box = [round(x * y) for x, y in zip(part, picture.size * 2, strict=True)]
        expected = np.asarray(picture.crop(box).resize(image.size), dtype=int)
        assert np.abs(np.asarray(image) - expected).max() <= 8


def test_the_kept_square_is_red(family, planted, monkeypatch):
    monkeypatch.setattr(overlay, "SIDE", 240)  # a smaller picture, for speed
    case, _, processor = family
    if case.name in ("got_ocr2", "step3p7") or (case.name == "fast_vlm" and TIMM):
        pytest.skip("convolutions spread the square over its neighbours")
    _, report, change = planted
    seen = 0
    for view in report.views[0]:
        strength = change[view.tokens]
        if strength.max() < change.max() / 3:
            continue  # no square in this view
        best = view.tokens.flatten()[strength.argmax()]
        for kept, red in ((best, True), (view.tokens[-1, -1], False)):
            image = overlay.picture([view], kept[None], processor)
            cell = image.width * image.height / view.tokens.numel()
            assert (redness(image).sum() > cell / 10) == red  # its frame takes some
        seen += 1
    assert seen


@pytest.mark.parametrize("normalisation", ["known", "unknown"])
def test_a_report_draws_its_image(family, planted, monkeypatch, normalisation):
    monkeypatch.setattr(overlay, "SIDE", 240)
    _, report, change = planted
    processor = family[2] if normalisation == "known" else None
    kept = {"no": torch.tensor([], dtype=torch.long), "all": torch.arange(len(change))}
    images = {  # with these tokens kept
        name: Report([replace(report.visuals[0], kept=k)]).picture(0, processor)
        for name, k in kept.items()
    }
    assert redness(images["all"]).any() and not redness(images["no"]).any()
    assert images["all"].width > 200
