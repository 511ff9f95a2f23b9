"""InternVL: each tile is an image of its own; a LayerNorm over the merged patches."""

from .base import Family


class InternVL(Family):
    models = ("InternVLForConditionalGeneration",)
