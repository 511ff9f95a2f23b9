"""What an adapter tells: where a model's projector is, and how its visual tokens are laid out."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...projector import Projector, find_projector
from .. import compat

if TYPE_CHECKING:
    from ... import choices
    from ..shortening import Prompt

# the module whose inputs this thread or task collects, and these
_captured: ContextVar[tuple[Any, list[Tensor]] | None] = ContextVar(
    "zoprune_captured", default=None
)


@dataclass
class VisualTokens:
    """The visual tokens of all images, or all videos, of a call: T tokens from R projector rows."""

    features: Sequence[Tensor] | Tensor  # one [n, D] for each image, in their order
    x: Tensor  # [R, d], the projector's inputs
    # [R, C] and what newlines get -> [T, C]
    arrange: Callable[[Tensor, float], Tensor] | None = None
    groups: Any = None  # Tensor [R] float on the CPU, the crop or frame within the image
    output: Any = None  # what the model's encoder returned, where the model accepts that as input
    newlines: Tensor | None = None  # [T] bool, tokens of no projector row; None: there are none
    # of each image or video: frames, rows and columns of its tokens, newlines left out
    frames: list[tuple[int, int, int]] | None = None

    def __post_init__(self) -> None:
        if self.arrange is not None and self.newlines is None:
            zeros = self.x.new_zeros(len(self.x), 1, dtype=torch.float32)
            self.newlines = self.arrange(zeros, 1.0)[:, 0] == 1

    def arranged(self, rows: Tensor) -> Tensor:
        """A value for each projector row [R] -> one for each token [T], 0 for newlines."""
        return rows if self.arrange is None else self.arrange(rows[:, None], 0.0)[:, 0]

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
    # Methods get ``core``, the inner model ``model.model``; paths are from the outer one.
    # the keyword arguments of forward that carry each modality; the first one holds the pixels
    inputs: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values", "image_sizes")}
    passed_on: tuple[str, ...] = ()  # what the encoder takes without naming it in its signature
    groups: str | None = None  # what ``per`` may name besides "image": "crop" or "frame"
    projector = "model.multi_modal_projector"
    further: tuple[str, ...] = ()  # modules that ``describe`` needs beside the projector
    language_model = "model.language_model"
    mrope = False  # multimodal rotary positions, computed from the image grid
    by_columns = False  # attention or ``generate`` counts columns: positions cannot have gaps
    renamed: ClassVar[dict[str, str]] = {}  # what transformers still takes under an older name

    @property
    def layouts(self) -> list[choices.Positions]:
        """What ``positions`` may be, the default first."""
        if self.mrope:
            return ["original"]
        return ["compact"] if self.by_columns else ["compact", "original"]

    def by_present_names(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """A call's arguments as transformers renames them: the new name wins."""
        old = [name for name in self.renamed if name in arguments]
        if not old:
            return arguments
        new = {self.renamed[name]: arguments[name] for name in old}
        return {n: v for n, v in {**new, **arguments}.items() if n not in old}

    def describe(self, *modules: Any) -> Projector:
        """The layers of the projector module, and of the further ones."""
        return find_projector(modules[0])

    def modules(self, core: Any) -> list[nn.Module]:
        """What ``describe`` is given."""
        return [self.part(core, path) for path in (self.projector, *self.further)]

    def part(self, core: Any, path: str) -> Any:
        """A module of the inner model by its path from the outer one."""
        return core.get_submodule(path.removeprefix("model."))

    def entry(self, core: Any) -> nn.Module:
        """The module whose inputs are scored: one row for each visual token."""
        return self.part(core, self.projector)

    def hook(self, core: Any) -> None:
        """Register on the inner model's modules what pruning needs there."""
        module = self.entry(core)
        if record not in module._forward_hooks.values():
            module.register_forward_hook(record, with_kwargs=True)

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        """Run the vision tower and the projector, as the model does."""
        output, x = self.project(core, inputs, modality)
        return VisualTokens(getattr(output, "pooler_output", output), x, output=output)

    def project(self, core: Any, inputs: dict[str, Any], modality: str) -> tuple[Any, Tensor]:
        """What the model's encoder returns, and its projector's inputs [R, d]."""
        get = getattr(core, f"get_{modality}_features")
        names = inspect.signature(get).parameters
        given = {n: inputs[n] for n in (*names, *self.passed_on) if inputs.get(n) is not None}
        if compat.VERSION >= (5,):
            given["return_dict"] = True  # whatever the config says
        self.hook(core)  # the projector may have been replaced
        with capture(self.entry(core)) as rows:
            output = get(**given)
        return output, torch.cat([r.flatten(0, -2) for r in rows])

    def positions(self, core: Any, inputs: dict[str, Any], generating: bool) -> Tensor | None:
        """Multimodal positions [3, B, L] of the full prompt; None for ordinary ones."""
        return None

    def settle(self, core: Any, positions: Tensor, mask: Any) -> None:
        """Leave on the model what it keeps for later tokens, from positions [.., B, L']."""

    def feed(
        self,
        core: Any,
        prompt: Prompt,
        tokens: dict[str, VisualTokens],
        kept: dict[str, Tensor],
    ) -> dict[str, Any]:
        """The model inputs that carry the kept features into the shortened prompt [B, L']."""
        if compat.FEEDS_FEATURES:
            outputs = {m: self.shortened_output(t, kept[m]) for m, t in tokens.items()}
            return {compat.FEATURES: outputs}
        slots = {m: prompt.ids == self.token_id(core, m) for m in tokens}
        is_text = ~torch.stack(list(slots.values())).any(0)
        embeds = prompt.embedded(core, is_text)  # [B, L', D]
        for modality, slot in slots.items():
            features = torch.cat(tokens[modality].only(kept[modality])).to(embeds)
            embeds = embeds.masked_scatter(slot[..., None], features)
        return {"inputs_embeds": embeds}

    def shortened_output(self, tokens: VisualTokens, kept: Tensor) -> Any:
        """The encoder's output with only the kept features."""
        features: Any = tokens.only(kept)
        if not isinstance(tokens.features, Tensor):
            return compat.output_like(tokens.output, pooler_output=features)
        counts = [len(f) for f in features]  # [images, k, D], one run of tokens if they differ
        alike = len(set(counts)) == 1
        together = torch.stack(features) if alike else torch.cat(features)[None]
        output = compat.output_like(tokens.output, pooler_output=together)
        output.runs = None if alike else counts
        return output

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        """The views of each image, of whose tokens these are newlines: here one, all of it."""
        views = []
        for pixels, tokens in zip(inputs[self.inputs[modality][0]], newlines, strict=True):
            height, width = pixels.shape[-2:]
            rows = round(math.sqrt(len(tokens) * height / width))  # tokens are square
            views.append([View(pixels, torch.arange(len(tokens)).view(rows, -1))])
        return views

    def token_id(self, core: Any, modality: str) -> int:
        """The token that stands for one visual token in ``input_ids``."""
        return getattr(core.config, f"{modality}_token_id")


def frame_of_each(videos: int, frames: int, area: int) -> Tensor:
    """``groups`` of videos of so many frames of ``area`` tokens: [videos * frames * area]."""
    return torch.arange(frames).repeat_interleave(area).repeat(videos).float()


def sized_views(inputs: dict[str, Any], side: int) -> list[list[View]]:
    """The views of images that were padded to one size; a token covers ``side`` pixels squared."""
    views = []
    for pixels, (height, width) in zip(inputs["pixel_values"], inputs["image_sizes"], strict=True):
        rows, columns = int(height) // side, int(width) // side
        seen = pixels[:, : rows * side, : columns * side]
        views.append([View(seen, torch.arange(rows * columns).view(rows, columns))])
    return views


@contextlib.contextmanager
def capture(module: Any) -> Iterator[list[Tensor]]:
    """Collect the inputs of a module's calls made in this thread or task."""
    calls: list[Tensor] = []
    token = _captured.set((module, calls))
    try:
        yield calls
    finally:
        _captured.reset(token)


def record(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
    """The forward hook on a projector."""
    target = _captured.get()
    if target is not None and target[0] is module:
        target[1].append((*args, *kwargs.values())[0].detach())
