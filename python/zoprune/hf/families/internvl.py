"""InternVL and Qianfan-OCR: a tile is an image of its own; a LayerNorm over merged patches."""

from .base import Family


class InternVL(Family):
    models: tuple[str, ...] = (
        "InternVLForConditionalGeneration",
        "QianfanOCRForConditionalGeneration",
    )
