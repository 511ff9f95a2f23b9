"""The supported model architectures, one file each."""

from typing import Any

from torch import nn

from .. import compat
from .aya_vision import AyaVision
from .base import Family
from .gemma3 import Gemma3
from .gemma4 import Gemma4
from .glm4v import Glm4V
from .got_ocr2 import GotOcr2
from .hyperclovax import HyperClovaX
from .idefics3 import Idefics3
from .inkling2 import Inkling2
from .internvl import InternVL
from .kimi_k25 import KimiK25
from .lfm2_vl import Lfm2VL, Lfm3VL
from .llama4 import Llama4
from .llava import DeepseekVL, FastVlm, Llava, VipLlava
from .llava_next import LlavaNext
from .llava_next_video import LlavaNextVideo
from .llava_onevision import LlavaOnevision
from .minicpm_v import MiniCpmV, MiniCpmV47
from .minimax_m3 import MiniMaxM3
from .mistral3 import LightOnOcr, Mistral3
from .paddleocr_vl import PaddleOcrVL
from .paligemma import PaliGemma
from .perception_lm import PerceptionLM
from .qwen2_vl import Cosmos3Edge, Exaone45, Qwen2VL, Qwen25VL, Qwen35
from .qwen3_vl import Qwen3VL
from .refused import REASONS
from .step3p7 import Step3p7
from .versions import refused
from .video_llama3 import VideoLlama3
from .video_llava import VideoLlava

FAMILIES: tuple[Family, ...] = (
    Llava(),
    VipLlava(),
    VideoLlava(),
    LlavaNext(),
    LlavaNextVideo(),
    LlavaOnevision(),
    VideoLlama3(),
    Llama4(),
    Qwen2VL(),
    Qwen25VL(),
    Qwen3VL(),
    Qwen35(),
    Cosmos3Edge(),
    Exaone45(),
    PaddleOcrVL(),
    MiniMaxM3(),
    MiniCpmV(),
    MiniCpmV47(),
    Inkling2(),
    Glm4V(),
    KimiK25(),
    InternVL(),
    Mistral3(),
    LightOnOcr(),
    AyaVision(),
    DeepseekVL(),
    FastVlm(),
    PerceptionLM(),
    Lfm2VL(),
    Lfm3VL(),
    PaliGemma(),
    GotOcr2(),
    Step3p7(),
    HyperClovaX(),
    Idefics3(),
    Gemma3(),
    Gemma4(),
)
SUPPORTED = tuple(name for family in FAMILIES for name in family.models)


def family_of(model: nn.Module) -> Family:
    """The adapter of a model; TypeError for an architecture without one, or another layout."""
    names = [cls.__name__ for cls in type(model).__mro__]
    for family in FAMILIES:
        found = next((name for name in names if name in family.models), None)
        if found is not None:
            _check_version(found)
            _check_layout(model, family)
            return family
    known = next((name for name in names if name in REASONS), None)
    reason = "" if known is None else f", which is none of them: {REASONS[known]}"
    raise TypeError(
        f"zoprune: model: expected one of {', '.join(SUPPORTED)}, got {type(model).__name__}"
        f"{reason}. "
        "For any other model, wrap its projector: zoprune.PrunedProjector(projector, keep) returns "
        "the pruned tokens and their indices (see docs/models.md)"
    )


def _check_version(name: str) -> None:
    if expected := refused(name, compat.VERSION):
        raise TypeError(
            f"zoprune: model: expected transformers {expected} for a {name}, got "
            f"{'.'.join(map(str, compat.VERSION))}"
        )


def _check_layout(model: nn.Module, family: Family) -> None:
    """A class of another engine may have the same name."""
    missing = [] if compat.is_pretrained(model) else ["a PreTrainedModel"]
    for path in (family.projector, family.language_model):
        try:
            model.get_submodule(path)
        except AttributeError:
            missing.append(path)
    if missing:
        cls = type(model)
        if compat.is_pretrained(model):  # Gemma 4 may be made for sound alone
            raise TypeError(
                f"zoprune: model: expected one that reads images, got a {cls.__name__} that lacks "
                f"{' and '.join(missing)}"
            )
        raise TypeError(
            f"zoprune: model: expected transformers' {cls.__name__}, got {cls.__module__}."
            f"{cls.__name__}, which lacks {' and '.join(missing)}"
        )


def unwrap(model: Any) -> tuple[Any, Family]:
    """The supported model itself, and its adapter, from whatever wraps it.

    peft, ``torch.compile``, DataParallel, DistributedDataParallel, trl's heads: they hold it as a
    submodule. TypeError where there is none, or more than one.
    """
    if not isinstance(model, nn.Module):
        held = getattr(model, "model", None)
        hint = f"; its .model is a {type(held).__name__}" if isinstance(held, nn.Module) else ""
        raise TypeError(
            f"zoprune: model: expected a torch.nn.Module, got {type(model).__name__}{hint}"
        )
    found = {id(m): m for m in model.modules() if _is_named(m)}
    if _is_named(model) or not found:
        return model, family_of(model)
    if len(found) > 1:
        names = ", ".join(type(m).__name__ for m in found.values())
        raise TypeError(
            f"zoprune: model: expected one supported model, got {type(model).__name__} with "
            f"{len(found)}: {names}; call it with each of them"
        )
    (inner,) = found.values()
    return inner, family_of(inner)


def _is_named(module: nn.Module) -> bool:
    return any(cls.__name__ in SUPPORTED for cls in type(module).__mro__)
