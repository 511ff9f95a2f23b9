"""GOT-OCR 2: two convolutions over patches, then one linear layer."""

from .base import Family


class GotOcr2(Family):
    models: tuple[str, ...] = ("GotOcr2ForConditionalGeneration",)
    inputs = {"image": ("pixel_values",)}  # noqa: RUF012
    projector = "model.multi_modal_projector.multimodal_projector"
