"""HyperCLOVA X Vision: the tower of Qwen2.5-VL with its merger, then one linear layer."""

from .grids import Grids


class HyperClovaX(Grids):
    models: tuple[str, ...] = ("HyperCLOVAXVisionV2ForConditionalGeneration",)
    projector = "model.projector"
    tower = "model.vision_model"
    by_columns = True  # ``generate`` ignores positions
