"""What an adapter tells: where a model's projector is, and how its visual tokens are laid out."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...projector import Projector, find_projector

_captured: ContextVar[list[Tensor] | None] = ContextVar("zoprune_captured", default=None)


@dataclass
class VisualTokens:
    """The visual tokens of all images, or all videos, of a call: T tokens from R projector rows."""

    features: Sequence[Tensor] | Tensor  # one [n, D] for each image, in their order
    x: Tensor  # [R, d], the projector's inputs
    arrange: Callable[[Tensor], Tensor] | None = None  # [R, C] -> [T, C], NaN for newlines
    groups: Any = None  # Tensor [R] float on the CPU, the crop or frame within the image
    output: Any = None  # what the model's encoder returned, where the model accepts that as input

    def arranged(self, rows: Tensor) -> Tensor:
        """A value for each projector row [R] -> one for each token [T], NaN for newlines."""
        return rows if self.arrange is None else self.arrange(rows[:, None])[:, 0]

    @property
    def images(self) -> Tensor:
        """The image that each token belongs to, [T] int64 on the CPU."""
        sizes = torch.tensor([len(f) for f in self.features])
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    def only(self, kept: Tensor) -> list[Tensor]:
        """The features that remain of each image; ``kept`` [K] ascending, into the T tokens."""
        counts = self.images.to(kept.device)[kept].bincount(minlength=len(self.features))
        return list(torch.cat(list(self.features))[kept].split(counts.tolist()))


@dataclass
class View:
    """A picture that the vision tower saw (an image, a crop, a frame) and the tokens over it."""

    pixels: Tensor  # [3, H, W], as the processor normalised them
    tokens: Tensor  # [rows, columns] int64, indices within the image; they cover all of the picture
    # where crops meet, in token rows and in token columns
    seams: tuple[Sequence[float], Sequence[float]] = ((), ())


class Family:
    """One model architecture. Subclasses name its parts and override what differs."""

    models: tuple[str, ...] = ()  # class names in transformers
    # the keyword arguments of forward that carry each modality; the first one holds the pixels
    inputs: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values", "image_sizes")}
    passed_on: tuple[str, ...] = ()  # what the encoder takes without naming it in its signature
    groups: str | None = None  # what ``per`` may name besides "image": "crop" or "frame"
    projector = "model.multi_modal_projector"
    language_model = "model.language_model"
    mrope = False  # multimodal rotary positions, computed from the image grid

    def describe(self, module: nn.Module) -> Projector:
        """The layers of the projector module."""
        return find_projector(module)

    def hooks(self, model: Any) -> list[RemovableHandle]:
        """Register on a model's modules what pruning needs there."""
        return [model.get_submodule(self.projector).register_forward_hook(record)]

    def encode(self, model: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        """Run the vision tower and the projector, as the model does."""
        output, x = self.project(model, inputs, modality)
        return VisualTokens(getattr(output, "pooler_output", output), x, output=output)

    def project(self, model: Any, inputs: dict[str, Any], modality: str) -> tuple[Any, Tensor]:
        """What the model's encoder returns, and its projector's inputs [R, d]."""
        get = getattr(model.model, f"get_{modality}_features")
        names = inspect.signature(get).parameters
        given = {n: inputs[n] for n in (*names, *self.passed_on) if inputs.get(n) is not None}
        with capture() as rows:
            output = get(**given)
        return output, torch.cat([r.flatten(0, -2) for r in rows])

    def positions(self, model: Any, inputs: dict[str, Any]) -> Tensor | None:
        """Multimodal positions [3, B, L] of the full prompt; None for ordinary ones."""
        return None

    def feed(
        self,
        model: Any,
        input_ids: Tensor,
        tokens: dict[str, VisualTokens],
        kept: dict[str, Tensor],
    ) -> dict[str, Any]:
        """The model inputs that carry the kept features into the shortened prompt [B, L']."""
        if accepts_encoder_outputs(model.__class__):
            outputs = {m: self.shortened_output(t, kept[m]) for m, t in tokens.items()}
            return {"mm_encoder_outputs": outputs}
        slots = {m: input_ids == self.token_id(model, m) for m in tokens}
        text = input_ids
        for slot in slots.values():
            text = text.masked_fill(slot, 0)  # a placeholder may lie outside the vocabulary
        embeds = model.get_input_embeddings()(text)  # [B, L', D]
        for modality, slot in slots.items():
            features = torch.cat(tokens[modality].only(kept[modality])).to(embeds)
            embeds = embeds.masked_scatter(slot[..., None], features)
        return {"inputs_embeds": embeds}

    def shortened_output(self, tokens: VisualTokens, kept: Tensor) -> Any:
        """The encoder's output with only the kept features."""
        features = tokens.only(kept)
        stacked = isinstance(tokens.features, Tensor)  # [images, k, D]
        return type(tokens.output)(pooler_output=torch.stack(features) if stacked else features)

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, scores: Sequence[Tensor]
    ) -> list[list[View]]:
        """The views of each image, whose tokens have these scores: here one, square."""
        views = []
        for pixels, tokens in zip(inputs[self.inputs[modality][0]], scores, strict=True):
            side = math.isqrt(len(tokens))
            views.append([View(pixels, torch.arange(len(tokens)).view(side, side))])
        return views

    def token_id(self, model: Any, modality: str) -> int:
        """The token that stands for one visual token in ``input_ids``."""
        return getattr(model.config, f"{modality}_token_id")


def sized_views(inputs: dict[str, Any], side: int) -> list[list[View]]:
    """The views of images that were padded to one size; a token covers ``side`` pixels squared."""
    views = []
    for pixels, (height, width) in zip(inputs["pixel_values"], inputs["image_sizes"], strict=True):
        rows, columns = int(height) // side, int(width) // side
        seen = pixels[:, : rows * side, : columns * side]
        views.append([View(seen, torch.arange(rows * columns).view(rows, columns))])
    return views


@functools.cache
def accepts_encoder_outputs(cls: Any) -> bool:
    """Whether the model takes visual features that were computed before (transformers 5)."""
    return "mm_encoder_outputs" in inspect.signature(cls.forward).parameters


@contextlib.contextmanager
def capture() -> Iterator[list[Tensor]]:
    """Collect the inputs of the projector calls made in this thread."""
    calls: list[Tensor] = []
    token = _captured.set(calls)
    try:
        yield calls
    finally:
        _captured.reset(token)


def record(module: nn.Module, arguments: tuple, output: Any) -> None:
    """The forward hook that ``prune`` puts on a projector."""
    calls = _captured.get()
    if calls is not None:
        calls.append(arguments[0].detach())
