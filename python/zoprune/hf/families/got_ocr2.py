"""GOT-OCR 2: two convolutions over patches, then one linear layer."""

from typing import Any

from torch import Tensor

from .base import Family


class GotOcr2(Family):
    models: tuple[str, ...] = ("GotOcr2ForConditionalGeneration",)
    inputs = {"image": ("pixel_values",)}  # noqa: RUF012
    projector = "model.multi_modal_projector.multimodal_projector"

    def project(self, core: Any, inputs: dict[str, Any], modality: str) -> tuple[Any, Tensor]:
        """``forward`` takes pixels of any dtype."""
        pixels = inputs["pixel_values"].to(core.get_input_embeddings().weight.dtype)
        return super().project(core, inputs | {"pixel_values": pixels}, modality)
