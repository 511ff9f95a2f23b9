"""Checkpoints on disk: the model with its processor, or without weights, or a clear error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image


def skeleton(directory: str) -> Any:
    """The model of a checkpoint's directory without weights; only config.json is read."""
    transformers = _transformers(directory, "MODEL")
    try:
        config = transformers.AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            return transformers.AutoModelForImageTextToText.from_config(config)
    except ValueError as error:
        raise UsageError(f"MODEL: {_first_line(error)}") from error


def load(directory: str, dtype: str) -> tuple[Any, Any]:
    """(model, processor) of a checkpoint's directory, on the GPU where there is one."""
    transformers = _transformers(directory, "--model")
    try:
        processor = transformers.AutoProcessor.from_pretrained(directory)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(
            f"--model: expected a processor in {directory}, got none: {_first_line(error)}"
        ) from error
    try:
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            directory, dtype=dtype, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--model: expected a model for images and text in {directory}: {_first_line(error)}"
        ) from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor


def question(model: Any, processor: Any, photo: Image, prompt: str) -> Any:
    """The model's inputs for a photo and a prompt, in the chat template where there is one."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        message = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(message, add_generation_prompt=True)
    else:
        text = f"{getattr(processor, 'image_token', '<image>')}\n{prompt}"
    inputs = processor(images=photo, text=text, return_tensors="pt")
    return inputs.to(model.device, dtype=model.dtype)


def _transformers(directory: str, argument: str) -> Any:
    if not (Path(directory) / "config.json").is_file():
        raise UsageError(f"{argument}: expected a directory with a config.json, got {directory}")
    try:
        import transformers
    except ImportError as error:
        install = "pip install 'transformers>=4.57' safetensors"
        raise UsageError(f"transformers is missing: {install}") from error
    return transformers


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
