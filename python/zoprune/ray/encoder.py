"""A worker: a checkpoint's vision tower and projector, pruned by ``zoprune.prune``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .shards import write_shard


class _Embedded(Exception):
    """The language model's inputs are known: nothing of it needs to run."""


class Encoder:
    """Called by Ray Data with a batch of rows, of which it makes one shard."""

    def __init__(self, output: str, maker: dict[str, Any], device: str | None) -> None:
        from transformers import AutoProcessor

        import zoprune

        options = dict(maker)
        checkpoint, dtype = options.pop("checkpoint"), options.pop("dtype")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.output, self.maker = Path(output), maker
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        self.model = zoprune.prune(_without_layers(checkpoint, dtype).to(device).eval(), **options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        images, errors = [], []
        for n, name in enumerate(batch["id"]):
            picture, error = _read(batch, n)
            if picture is not None:
                try:
                    images.append((str(name), self.encode(picture)))
                except ValueError as refused:  # a shape that the processor does not take
                    error = f"{type(refused).__name__}: {refused}"
            errors.append(error)
        if images:
            write_shard(self.output, images, self.maker)
        return {"id": [str(name) for name in batch["id"]], "error": errors}

    @torch.no_grad()
    def encode(self, picture: Any) -> dict[str, Tensor]:
        """features [k, D] of the kept tokens, their indices [k] and all scores [N]."""
        import zoprune

        text = getattr(self.processor, "boi_token", None) or self.processor.image_token
        inputs = self.processor(text=[text], images=[picture], return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        with self._embeddings() as caught, contextlib.suppress(_Embedded):
            self.model(**inputs)
        report = zoprune.report(self.model)
        # images of several tiles are several to the report
        sizes = [len(scores) for scores in report.scores]
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        kept = torch.cat([k.cpu() + s for k, s in zip(report.kept, starts, strict=False)])
        is_image = inputs["input_ids"][0].cpu() == self._token()
        columns = torch.ones_like(is_image)
        slots = is_image.nonzero()[:, 0]
        columns[slots] = False
        columns[slots[kept]] = True
        rows = caught[0][0][is_image[columns].to(caught[0].device)]  # [k, D]
        scores = torch.cat([s.cpu() for s in report.scores])
        return {"features": rows.cpu(), "indices": kept, "scores": scores.float()}

    @contextlib.contextmanager
    def _embeddings(self) -> Iterator[list[Tensor]]:
        """Collects the language model's input embeddings, and ends the call there."""
        caught: list[Tensor] = []

        def stop(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            caught.append(kwargs["inputs_embeds"].detach())
            raise _Embedded

        language_model = self.model.model.language_model
        hook = language_model.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            yield caught
        finally:
            hook.remove()

    def _token(self) -> int:
        config = self.model.config
        token = getattr(config, "image_token_id", None)
        return config.image_token_index if token is None else token


def _read(batch: dict[str, Any], n: int) -> tuple[Any, str]:
    """A picture, or why there is none: one bad photo must not stop the others."""
    try:
        return _picture(batch, n), ""
    except Exception as error:  # decoders raise all sorts
        return None, f"{type(error).__name__}: {error}"


def _picture(batch: dict[str, Any], n: int) -> Any:
    from PIL import Image

    if "image" in batch:
        return Image.fromarray(batch["image"][n]).convert("RGB")
    with Image.open(batch["path"][n]) as picture:
        return picture.convert("RGB")


def _without_layers(checkpoint: str, dtype: str) -> Any:
    """The model with one language layer: what is loaded is the vision tower and the projector."""
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging

    config = AutoConfig.from_pretrained(checkpoint)
    text = config.get_text_config()
    text.num_hidden_layers = 1
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # the other layers' weights are left out on purpose
    try:
        return AutoModelForImageTextToText.from_pretrained(
            checkpoint, config=config, dtype=getattr(torch, dtype), use_safetensors=True
        )
    finally:
        logging.set_verbosity(level)
