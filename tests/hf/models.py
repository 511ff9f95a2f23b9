"""Tiny models of the architectures that ``zoprune`` prunes, random weights, and their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from zoprune.hf import compat
from zoprune.hf.families.versions import refused

from tests.hf import further_models, grid_models, newer_models, newest_models, timm_models
from tests.hf import linear_models as linear
from tests.hf import mlp_models as mlp
from tests.hf.case import VIDEOS, Case
from tests.hf.mlp_models import IMAGE, PAD, VISION_END, VISION_START

NEWEST = Version(transformers.__version__) >= Version("5.24.dev0")  # has every class
NEWER = [
    *grid_models.CASES,
    *newer_models.CASES,
    *newest_models.CASES,
    *timm_models.CASES,
    *further_models.CASES,
]
VIEWS = dict(linear=True, groups="crop", views=linear.VIEWS)
CASES = [
    Case("llava", mlp.llava, mlp.llava_images),
    Case("pixtral", mlp.pixtral, mlp.sized_images(1)),
    Case("llava_next", mlp.llava_next, mlp.anyres_images, groups="crop"),
    Case("llava_onevision", mlp.llava_onevision, mlp.anyres_images),
    Case(
        "llava_onevision-video",
        mlp.llava_onevision,
        mlp.onevision_videos,
        frames=(3, 3, 3),
        **VIDEOS,
    ),
    Case("qwen2_vl", mlp.qwen2_vl, mlp.qwen_images, mrope=True),
    Case("qwen2_vl-video", mlp.qwen2_vl, mlp.qwen_videos, mrope=True, frames=(2, 3, 2), **VIDEOS),
    Case("qwen2_5_vl", mlp.qwen2_5_vl, mlp.qwen_images, mrope=True),
    Case(
        "qwen2_5_vl-video", mlp.qwen2_5_vl, mlp.qwen_videos, mrope=True, frames=(2, 3, 2), **VIDEOS
    ),
    Case("qwen3_vl", mlp.qwen3_vl, mlp.qwen_images, mrope=True, deepstack=True),
    Case(
        "qwen3_vl-video",
        mlp.qwen3_vl,
        mlp.qwen_videos,
        mrope=True,
        deepstack=True,
        frames=(2, 3, 2),
        timestamps=True,
        **VIDEOS,
    ),
    Case("internvl", mlp.internvl, mlp.internvl_images),
    Case("mistral3", mlp.mistral3, mlp.sized_images(2)),
    Case("paligemma", linear.paligemma, mlp.llava_images, linear=True, bidirectional="prompt"),
    Case("gemma3", linear.gemma3, mlp.internvl_images, linear=True, bidirectional="images"),
    Case("idefics3", linear.idefics3, linear.view_images, **VIEWS),
    Case("smolvlm", linear.smolvlm, linear.view_images, **VIEWS),
    *NEWER,
]
OLDER = [case for case in CASES if case not in NEWER]


def make(case: Case) -> torch.nn.Module:
    """The family's model with weights large enough for tokens to differ in sensitivity."""
    torch.manual_seed(0)
    model = build(case).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.mul_(4)
    model.generation_config.eos_token_id = None
    return model


def build(case: Case) -> torch.nn.Module:
    """The family's model, with its usual random weights."""
    try:
        model = case.build()
    except (AttributeError, ImportError) as error:
        if NEWEST:
            raise
        pytest.skip(f"not in this transformers: {error}")
    name = type(model).__name__
    if expected := refused(name, compat.VERSION):
        pytest.skip(f"{name}: tested with transformers {expected}")
    return model


def prompt(
    case: Case, model: torch.nn.Module, rows: Sequence[int] = (1,), padding: str = "left"
) -> dict[str, Tensor]:
    """Inputs for one row per entry of ``rows``, which gives the row's number of images."""
    inputs, sizes = case.images(model, sum(rows))
    remaining = iter(enumerate(sizes))
    texts = []
    for index, images in enumerate(rows):
        ids = torch.randint(2, 80, (3 + index,)).tolist()
        for _ in range(images):
            ids += placeholders(case, *next(remaining)) + torch.randint(2, 80, (2,)).tolist()
        texts.append(ids)
    longest = max(map(len, texts))
    input_ids = torch.full((len(texts), longest), PAD)
    mask = torch.zeros(len(texts), longest, dtype=torch.long)
    for row, ids in enumerate(texts):
        where = slice(longest - len(ids), None) if padding == "left" else slice(0, len(ids))
        input_ids[row, where] = torch.tensor(ids)
        mask[row, where] = 1
    inputs |= {"input_ids": input_ids, "attention_mask": mask}
    if (case.mrope or case.typed) and Version(transformers.__version__) >= Version("5"):
        kind = 2 if case.modality == "video" else 1
        inputs["mm_token_type_ids"] = (input_ids == case.placeholder) * kind
    if case.bidirectional and not case.typed:
        images = case.bidirectional == "images"
        inputs["token_type_ids"] = (input_ids == IMAGE).long() * images
    if case.views:
        pixels = iter(inputs["pixel_values"])
        by_row = [torch.cat([next(pixels) for _ in range(images)]) for images in rows]
        inputs["pixel_values"] = torch.nn.utils.rnn.pad_sequence(by_row, batch_first=True)
    return inputs


def placeholders(case: Case, index: int, tokens: int) -> list[int]:
    """The part of the prompt that stands for one image or video: a run of placeholders or several,
    each announced by a token."""
    announced = [[]]
    if case.views:  # crops, then the whole image
        announced = [[80 + crop] for crop in range(case.views[index] - 1)] + [[85]]
    elif case.timestamps:
        announced = [[80]] * case.frames[index]
    run = [case.placeholder] * (tokens // len(announced))
    if case.mrope:
        run = [VISION_START, *run, VISION_END]
    return [token for name in announced for token in name + run]
