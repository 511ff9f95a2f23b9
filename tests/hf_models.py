"""Tiny models of the architectures that ``zoprune`` prunes, random weights, and their prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

VOCAB, IMAGE, VIDEO, PAD = 99, 90, 91, 0
TEXT = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=None,
)
CLIP = dict(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=7,
)


@dataclass
class Case:
    """A family: how to build a model, and the pixels of some images with their token counts."""

    name: str
    build: Callable[[], torch.nn.Module]
    images: Callable[[torch.nn.Module, int], tuple[dict[str, Tensor], list[int]]]
    placeholder: int = IMAGE
    modality: str = "image"
    linear: bool = False
    groups: str | None = None
    mrope: bool = False


def llava():
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=IMAGE,
        image_token_id=IMAGE,
    )
    return LlavaForConditionalGeneration(config)


def llava_images(model, count):
    return {"pixel_values": torch.randn(count, 3, 28, 28)}, [16] * count


CASES = [Case("llava", llava, llava_images)]


def make(case: Case) -> torch.nn.Module:
    """The family's model with weights large enough for tokens to differ in sensitivity."""
    torch.manual_seed(0)
    model = case.build().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.mul_(4)
    model.generation_config.eos_token_id = None
    return model


def prompt(
    case: Case, model: torch.nn.Module, rows: Sequence[int] = (1,), padding: str = "left"
) -> dict[str, Tensor]:
    """Inputs for one row per entry of ``rows``, which gives the row's number of images."""
    inputs, sizes = case.images(model, sum(rows))
    remaining = iter(sizes)
    texts = []
    for index, images in enumerate(rows):
        ids = torch.randint(2, 80, (3 + index,)).tolist()
        for _ in range(images):
            ids += [case.placeholder] * next(remaining) + torch.randint(2, 80, (2,)).tolist()
        texts.append(ids)
    longest = max(map(len, texts))
    input_ids = torch.full((len(texts), longest), PAD)
    mask = torch.zeros(len(texts), longest, dtype=torch.long)
    for row, ids in enumerate(texts):
        where = slice(longest - len(ids), None) if padding == "left" else slice(0, len(ids))
        input_ids[row, where] = torch.tensor(ids)
        mask[row, where] = 1
    inputs |= {"input_ids": input_ids, "attention_mask": mask}
    if case.mrope:
        inputs["mm_token_type_ids"] = (input_ids == IMAGE) + 2 * (input_ids == VIDEO)
    return inputs
