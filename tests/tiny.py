"""What the tiny models of tests/hf and tests/vllm have in common: configurations, by width."""

from __future__ import annotations

from typing import Any


def layers(hidden: int, intermediate: int, **more: Any) -> dict[str, Any]:
    """A transformer of two layers with two heads."""
    widths = dict(hidden_size=hidden, intermediate_size=intermediate)
    return {**widths, "num_hidden_layers": 2, "num_attention_heads": 2, **more}


def clip(hidden: int, intermediate: int) -> dict[str, Any]:
    """16 patches."""
    return layers(hidden, intermediate, image_size=28, patch_size=7)


def internvl(hidden: int, intermediate: int) -> dict[str, Any]:
    """64 patches, which become 16 tokens."""
    return layers(hidden, intermediate, image_size=[56, 56], patch_size=[7, 7])


def pixtral(hidden: int, intermediate: int, **more: Any) -> dict[str, Any]:
    return layers(hidden, intermediate, model_type="pixtral", patch_size=7, **more)


def _qwen(hidden: int, intermediate: int, outputs: int, **more: Any) -> dict[str, Any]:
    widths = dict(hidden_size=hidden, intermediate_size=intermediate, out_hidden_size=outputs)
    return {**widths, "num_heads": 2, "patch_size": 7, **more}


def qwen2_5_vl(hidden: int, intermediate: int, outputs: int) -> dict[str, Any]:
    windows = dict(window_size=28, fullatt_block_indexes=[1], tokens_per_second=2)
    return _qwen(hidden, intermediate, outputs, depth=2, **windows)


def qwen3_vl(hidden: int, intermediate: int, outputs: int) -> dict[str, Any]:
    more = dict(depth=3, num_position_embeddings=64, deepstack_visual_indexes=[0, 1])
    return _qwen(hidden, intermediate, outputs, **more)
