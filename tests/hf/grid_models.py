"""Tiny models of Qwen3, Qwen3.5, GLM and Kimi, which know the grid of an image's patches."""

import torch

from tests.hf.case import Case
from tests.hf.mlp_models import (
    IMAGE,
    TEXT,
    VIDEO,
    _qwen,
    _qwen_pixels,
    qwen_images,
    qwen_videos,
)

LLAMA = {"model_type": "llama", **TEXT}
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
RECURRENT = dict(
    layer_types=["linear_attention", "full_attention"],
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_conv_kernel_dim=4,
)


def grid_vision(**more):
    return dict(
        depth=2,
        hidden_size=24,
        out_hidden_size=32,
        intermediate_size=32,
        num_heads=2,
        patch_size=7,
        spatial_merge_size=2,
        temporal_patch_size=2,
        **more,
    )


def qwen3_vl_moe():
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    vision = grid_vision(num_position_embeddings=64, deepstack_visual_indexes=[0, 1])
    common = _qwen("qwen3_vl_moe")
    common["text_config"] |= EXPERTS
    return Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(vision_config=vision, **common))


def qwen3_5(name="Qwen3_5", **text):
    import transformers

    common = _qwen(name.lower())
    common["text_config"] |= RECURRENT | text
    rope = common["text_config"]["rope_parameters"] | {"partial_rotary_factor": 1.0}
    common["text_config"]["rope_parameters"] = rope
    del common["text_config"]["rope_scaling"]
    vision = grid_vision(num_position_embeddings=64)
    config = getattr(transformers, f"{name}Config")(vision_config=vision, **common)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def qwen3_5_moe():
    return qwen3_5("Qwen3_5Moe", **EXPERTS, shared_expert_intermediate_size=16)


def glm4v(name="Glm4v", kind="glm4v", vision=None, **text):
    import transformers

    common = _qwen(kind)
    common["text_config"] |= text
    for key in ("vision_start_token_id", "vision_end_token_id"):
        common[key.replace("vision", "image")] = common.pop(key)
    vision = grid_vision(image_size=56) | {"intermediate_size": 40} | (vision or {})
    config = getattr(transformers, f"{name}Config")(vision_config=vision, **common)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def kimi_k25():
    from transformers import Kimi_K25Config, Kimi_K25ForConditionalGeneration

    vision = dict(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=7,
        pos_emb_height=8,
        pos_emb_width=8,
        pos_emb_time=4,
    )
    config = Kimi_K25Config(
        vision_config=vision,
        text_config=LLAMA,
        projection_hidden_size=24,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return Kimi_K25ForConditionalGeneration(config)


def kimi_images(model, count):
    inputs, tokens = _qwen_pixels(
        model, [(1, 4, 6), (1, 8, 4), (1, 4, 4)][:count], "pixel_values", "image_grid_thw"
    )
    inputs["pixel_values"] = torch.randn(len(inputs["pixel_values"]), 3, 7, 7)
    return inputs, tokens


ROUTED = dict(
    moe_intermediate_size=16,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
)


def glm4v_moe():
    rope = _qwen("glm4v_moe")["text_config"]["rope_parameters"] | {"partial_rotary_factor": 1.0}
    return glm4v("Glm4vMoe", "glm4v_moe", rope_parameters=rope, rope_scaling=rope, **ROUTED)


def glm46v():
    return glm4v("Glm46V", "glm4v", {"model_type": "glm4v_vision"})


def glm_ocr():
    return glm4v("GlmOcr", "glm_ocr")


TIMED = dict(modality="video", groups="frame", frames=(2, 3, 2), timestamps=True)
GRID = dict(mrope=True)
CASES = [
    Case("qwen3_vl_moe", qwen3_vl_moe, qwen_images, deepstack=True, **GRID),
    Case("qwen3_5", qwen3_5, qwen_images, **GRID),
    Case("qwen3_5-video", qwen3_5, qwen_videos, **GRID, **TIMED, placeholder=VIDEO),
    Case("qwen3_5_moe", qwen3_5_moe, qwen_images, **GRID),
    Case("glm4v", glm4v, qwen_images, **GRID),
    Case("glm4v-video", glm4v, qwen_videos, **GRID, **TIMED),
    Case("kimi_k25", kimi_k25, kimi_images),
    Case("glm4v_moe", glm4v_moe, qwen_images, flash=False, **GRID),
    Case("glm46v", glm46v, qwen_images, flash=False, **GRID),
    Case("glm_ocr", glm_ocr, qwen_images, flash=False, **GRID),
]
