"""The supported model architectures, one file each."""

from torch import nn

from .base import Family
from .gemma3 import Gemma3
from .idefics3 import Idefics3
from .internvl import InternVL
from .llava import Llava
from .llava_next import LlavaNext
from .llava_onevision import LlavaOnevision
from .mistral3 import Mistral3
from .paligemma import PaliGemma
from .qwen2_vl import Qwen2VL, Qwen25VL
from .qwen3_vl import Qwen3VL

FAMILIES: tuple[Family, ...] = (
    Llava(),
    LlavaNext(),
    LlavaOnevision(),
    Qwen2VL(),
    Qwen25VL(),
    Qwen3VL(),
    InternVL(),
    Mistral3(),
    PaliGemma(),
    Idefics3(),
    Gemma3(),
)
SUPPORTED = tuple(name for family in FAMILIES for name in family.models)


def family_of(model: nn.Module) -> Family:
    """The adapter of a model; TypeError for an architecture without one."""
    names = [cls.__name__ for cls in type(model).__mro__]
    for family in FAMILIES:
        if any(name in names for name in family.models):
            return family
    raise TypeError(
        f"zoprune: model: expected one of {', '.join(SUPPORTED)}, got {type(model).__name__}. "
        "For any other model, wrap its projector: zoprune.PrunedProjector(projector, keep) returns "
        "the pruned tokens and their indices (see docs/models.md)"
    )
