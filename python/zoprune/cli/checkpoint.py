"""Checkpoints: the model with its processor, or without weights, or a clear error.

A checkpoint is a directory, or a name on the Hugging Face hub (``owner/name``). Whatever is wrong
with its files, transformers and the libraries below raise errors of many classes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .errors import UsageError, first_line, need

if TYPE_CHECKING:
    from PIL.Image import Image


# A small LLaVA that answers one-word questions about pictures like sample.png: benchmarks/accuracy.
TRAINED = Path(__file__).parent / "trained"


def skeleton(name: str) -> Any:
    """The model of a checkpoint without weights; only config.json is read."""
    transformers = _transformers(name, "MODEL", "zoprune inspect")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            return transformers.AutoModelForImageTextToText.from_config(config)
    except Exception as error:
        why = first_line(error)
        raise UsageError(f"MODEL: expected a model for images and text in {name}: {why}") from error


def load(name: str, dtype: str) -> tuple[Any, Any]:
    """(model, processor) of a checkpoint, on the GPU where there is one."""
    transformers = _transformers(name, "--model", "--model")
    try:
        processor = transformers.AutoProcessor.from_pretrained(name)
    except Exception as error:
        raise UsageError(
            f"--model: expected a processor in {name}, got none: {first_line(error)}"
        ) from error
    try:
        model, found = transformers.AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise UsageError(
            f"--model: expected a model for images and text in {name}: {first_line(error)}"
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would go on with random ones
        raise UsageError(
            f"--model: expected all weights in {name}, got none for {len(missing)} tensors, the "
            f"first of which is {missing[0]}"
        )
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor


def question(model: Any, processor: Any, photo: Image, prompt: str) -> Any:
    """The model's inputs for a photo and a prompt, in the chat template where there is one."""
    try:
        if getattr(processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            message = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(message, add_generation_prompt=True)
        else:
            text = f"{getattr(processor, 'image_token', '<image>')}\n{prompt}"
        inputs = processor(images=photo, text=text, return_tensors="pt")
    except Exception as error:
        raise UsageError(
            f"--model: expected a processor that takes an image and a prompt: {first_line(error)}"
        ) from error
    return inputs.to(model.device, dtype=model.dtype)


def _transformers(name: str, argument: str, purpose: str) -> Any:
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).parent.exists()
    if not on_hub and not (Path(name) / "config.json").is_file():
        raise UsageError(
            f"{argument}: expected a directory with a config.json, or a name on the Hugging Face "
            f"hub, got {name}"
        )
    need(purpose, "hf", "transformers", "safetensors")
    import transformers

    return transformers
