"""What does not go together with pruning, each refused by name when the model is built."""

from __future__ import annotations

from typing import Any

from .layout import Layout
from .options import KEEP


def check(vllm_config: Any, layout: Layout) -> None:
    """ValueError where a server's settings would make pruned answers wrong."""
    multimodal = vllm_config.model_config.multimodal_config
    parallel, compilation = vllm_config.parallel_config, vllm_config.compilation_config
    lora, speculative = vllm_config.lora_config, vllm_config.speculative_config
    data_parallel = getattr(multimodal, "mm_encoder_tp_mode", None) == "data"
    cases = {
        "--video-pruning-rate: expected none (videos are kept whole), got one": bool(
            getattr(multimodal, "video_pruning_rate", None)
        ),
        "--enable-tower-connector-lora: expected LoRA on the language model only (the projector's "
        "scores are those of the base weights), got it": bool(
            getattr(lora, "enable_tower_connector_lora", False)
        ),
        "compile_mm_encoder: expected false, got true": bool(
            getattr(compilation, "compile_mm_encoder", False)
        ),
        "cudagraph_mm_encoder with --mm-encoder-tp-mode data: expected one of them, got both": (
            data_parallel and bool(getattr(compilation, "cudagraph_mm_encoder", False))
        ),
        "--pipeline-parallel-size with multimodal positions: expected 1 (later stages do not learn "
        "the kept positions), got more": layout.mrope and parallel.pipeline_parallel_size > 1,
        "--prefill-context-parallel-size with multimodal positions: expected 1, got more": (
            layout.mrope and getattr(parallel, "prefill_context_parallel_size", 1) > 1
        ),
        "--ec-transfer-config: expected none (an encoder in a server of its own), got one": (
            getattr(vllm_config, "ec_transfer_config", None) is not None
        ),
        "--speculative-config with multimodal positions: expected ngram or none (a draft model "
        "would get positions of other tokens), got a draft model": (
            layout.mrope
            and speculative is not None
            and getattr(speculative, "method", None) not in ("ngram", "ngram_gpu", "suffix")
        ),
    }
    for message, applies in cases.items():
        if applies:
            raise ValueError(f"zoprune: {message}, with {KEEP}")
