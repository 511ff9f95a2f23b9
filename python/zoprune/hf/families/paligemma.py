"""PaliGemma: a projector of one linear layer; attention in both directions over the prompt."""

from .base import Family


class PaliGemma(Family):
    models: tuple[str, ...] = ("PaliGemmaForConditionalGeneration",)
    inputs = {"image": ("pixel_values",)}  # noqa: RUF012
