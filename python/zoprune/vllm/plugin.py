"""Where vLLM looks a model's class up, the option decides: with it ours, without it vLLM's own."""

from __future__ import annotations

import importlib
from typing import Any

from . import compat, metrics
from .options import KEEP, PREFIX, Options

NAMED = (
    "ZoPrune"  # in front of an architecture's name: vLLM without the plug-in knows no such model
)
_HERE = f"{__package__}.architectures"
ARCHITECTURES = {
    "LlavaForConditionalGeneration": f"{_HERE}.llava:Llava",
    "LlavaNextForConditionalGeneration": f"{_HERE}.llava_next:LlavaNext",
    "LlavaOnevisionForConditionalGeneration": f"{_HERE}.llava_onevision:LlavaOnevision",
    "Qwen2VLForConditionalGeneration": f"{_HERE}.qwen2_vl:Qwen2VL",
    "Qwen2_5_VLForConditionalGeneration": f"{_HERE}.qwen2_5_vl:Qwen25VL",
    "Qwen3VLForConditionalGeneration": f"{_HERE}.qwen3_vl:Qwen3VL",
    "Qwen3VLMoeForConditionalGeneration": f"{_HERE}.qwen3_vl_moe:Qwen3VLMoe",
    "Qwen3_5ForConditionalGeneration": f"{_HERE}.qwen3_5:Qwen35",
    "Qwen3_5MoeForConditionalGeneration": f"{_HERE}.qwen3_5:Qwen35Moe",
    "InternVLForConditionalGeneration": f"{_HERE}.internvl:InternVL",
    "InternVLChatModel": f"{_HERE}.internvl_chat:InternVLChat",
    "Mistral3ForConditionalGeneration": f"{_HERE}.mistral3:Mistral3",
    "Gemma3ForConditionalGeneration": f"{_HERE}.gemma3:Gemma3",
}


def install() -> bool:
    """Put the look-up in front of vLLM's own, once per process: whether it was not there yet."""
    compat.check_registry()
    from vllm.model_executor.model_loader import utils
    from vllm.model_executor.models.registry import _ModelRegistry

    if hasattr(_ModelRegistry, "_zoprune"):
        return False
    inspect, resolve = _ModelRegistry.inspect_model_cls, _ModelRegistry.resolve_model_cls

    def inspect_model_cls(self: Any, architectures: Any, model_config: Any) -> Any:
        """What a model's configuration calls when it is made: all is refused here that can be."""
        utils._MODEL_ARCH_BY_HASH.clear()  # it does not know the option
        if Options.of(model_config.hf_config) is not None:
            architectures = [_supported(architectures, model_config)]
            compat.check_hooks()
            metrics.prepare()
        return inspect(self, architectures, model_config)

    def resolve_model_cls(self: Any, architectures: Any, model_config: Any) -> Any:
        """The class; also of a model's language part, whose configuration has the option too."""
        if Options.of(model_config.hf_config) is not None:
            for name in _names(architectures):
                if name in ARCHITECTURES:
                    module, cls = ARCHITECTURES[name].split(":")
                    return getattr(importlib.import_module(module), cls), name
        return resolve(self, architectures, model_config)

    registry: Any = _ModelRegistry
    registry.inspect_model_cls = inspect_model_cls
    registry.resolve_model_cls = resolve_model_cls
    registry._zoprune = True
    return True


def _names(architectures: Any) -> list[str]:
    names = [architectures] if isinstance(architectures, str) else list(architectures)
    return [name.removeprefix(NAMED) for name in names]


def _supported(architectures: Any, model_config: Any) -> str:
    """The first architecture that can be pruned; ValueError where there is none."""
    if model_config.model_impl not in ("auto", "vllm"):
        raise ValueError(
            f"zoprune: --model-impl: expected auto or vllm with {KEEP}, got "
            f"{model_config.model_impl}"
        )
    names = _names(architectures)
    for name in names:
        if name in ARCHITECTURES:
            return name
    raise ValueError(
        f"zoprune: model: expected one of {', '.join(ARCHITECTURES)} with {KEEP}, got "
        f"{', '.join(names)}; leave {PREFIX}* out to serve it unpruned"
    )
