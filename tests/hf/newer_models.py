"""Tiny models of the families that came with transformers 4.57 to 5.24, and their images."""

import torch

from tests.hf.case import VIDEOS, Case
from tests.hf.grid_models import LLAMA, TIMED, grid_vision
from tests.hf.linear_models import GEMMA, SIGLIP
from tests.hf.mlp_models import (
    CLIP,
    IMAGE,
    TEXT,
    VIDEO,
    VISION_END,
    VISION_START,
    internvl_images,
    llava_images,
    qwen_images,
    qwen_videos,
    sized_images,
)


def aya_vision():
    from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration

    config = AyaVisionConfig(
        vision_config={**SIGLIP, "image_size": 56},
        text_config={"model_type": "cohere2", **TEXT},
        alignment_intermediate_size=40,
        image_token_index=IMAGE,
    )
    return AyaVisionForConditionalGeneration(config)


def cohere2_vision():
    from transformers import Cohere2VisionConfig, Cohere2VisionForConditionalGeneration

    config = Cohere2VisionConfig(
        vision_config={**SIGLIP, "image_size": 56},
        text_config={"model_type": "cohere2", **TEXT},
        alignment_intermediate_size=40,
        image_token_id=IMAGE,
    )
    return Cohere2VisionForConditionalGeneration(config)


def vipllava():
    from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

    config = VipLlavaConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP},
        text_config=LLAMA,
        image_token_index=IMAGE,
        vision_feature_layers=[-2, -1],
    )
    return VipLlavaForConditionalGeneration(config)


def deepseek_vl():
    from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration

    config = DeepseekVLConfig(vision_config=SIGLIP, text_config=LLAMA, image_token_id=IMAGE)
    return DeepseekVLForConditionalGeneration(config)


def qianfan_ocr():
    from transformers import QianfanOCRConfig, QianfanOCRForConditionalGeneration

    vision = dict(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=[56, 56],
        patch_size=[7, 7],
    )
    config = QianfanOCRConfig(
        vision_config=vision,
        text_config={"model_type": "qwen3", "head_dim": 8, **TEXT},
        image_token_id=IMAGE,
        image_seq_length=16,
    )
    return QianfanOCRForConditionalGeneration(config)


PIXTRAL = dict(
    model_type="pixtral",
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=64,
    patch_size=7,
)


def lighton_ocr():
    from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration

    config = LightOnOcrConfig(
        vision_config=PIXTRAL,
        text_config={"model_type": "qwen3", "head_dim": 8, **TEXT},
        image_token_id=IMAGE,
        spatial_merge_size=2,
    )
    return LightOnOcrForConditionalGeneration(config)


LATENT = dict(
    moe_intermediate_size=16,
    n_routed_experts=4,
    num_experts_per_tok=2,
    num_key_value_heads=4,
    kv_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
    head_dim=8,
    index_head_dim=8,
    index_n_heads=2,
)


def mistral_large4():
    from transformers import MistralLarge4Config, MistralLarge4ForConditionalGeneration

    config = MistralLarge4Config(
        vision_config=PIXTRAL,
        text_config={**TEXT, **LATENT},
        image_token_index=IMAGE,
        spatial_merge_size=2,
    )
    return MistralLarge4ForConditionalGeneration(config)


def lfm2_vl():
    from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration

    text = {**TEXT, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
    config = Lfm2VlConfig(
        vision_config={
            "model_type": "siglip2_vision_model",
            **CLIP,
            "num_patches": 64,
            "vision_use_head": False,
        },
        text_config={"model_type": "lfm2", **text},
        image_token_id=IMAGE,
        projector_hidden_size=40,
    )
    return Lfm2VlForConditionalGeneration(config)


SHAPES = [(4, 6), (8, 4), (4, 4)]  # rows and columns of patches


def naflex_images(model, count):
    """Patches of pictures of different sizes, padded to one number; 2 x 2 to a token."""
    shapes = torch.tensor(SHAPES[:count])
    counts = shapes.prod(1)
    mask = torch.arange(int(counts.max())) < counts[:, None]
    pixels = torch.randn(*mask.shape, 3 * 7 * 7).masked_fill(~mask[..., None], 0)
    inputs = {"pixel_values": pixels, "spatial_shapes": shapes, "pixel_attention_mask": mask.int()}
    return inputs, (counts // 4).tolist()


def lfm3_vl():
    from transformers import Lfm3VlConfig, Lfm3VlForConditionalGeneration

    config = Lfm3VlConfig(
        vision_config=grid_vision(),
        text_config=LLAMA,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        projector_hidden_size=40,
    )
    return Lfm3VlForConditionalGeneration(config)


def llama4():
    from transformers import Llama4Config, Llama4ForConditionalGeneration
    from transformers.modeling_outputs import MoeCausalLMOutputWithPast

    vision = dict(
        hidden_size=24,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=7,
        vision_output_dim=40,
        projector_input_dim=40,
        projector_output_dim=40,
    )
    text = {**TEXT, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2}
    if not hasattr(MoeCausalLMOutputWithPast, "image_outputs"):
        MoeCausalLMOutputWithPast.image_outputs = None  # what transformers 5.24 reads in vain
    config = Llama4Config(vision_config=vision, text_config=text, image_token_index=IMAGE)
    return Llama4ForConditionalGeneration(config)


def gemma4():
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    text = {
        **GEMMA,
        "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention"],
        "use_bidirectional_attention": "vision",
        "vocab_size_per_layer_input": TEXT["vocab_size"],
        "hidden_size_per_layer_input": 4,
        "global_head_dim": 8,
    }
    vision = {k: v for k, v in CLIP.items() if k != "image_size"}
    vision |= {"num_key_value_heads": 2, "head_dim": 12, "pooling_kernel_size": 2}
    config = Gemma4Config(
        vision_config={**vision, "position_embedding_size": 64},
        text_config=text,
        audio_config=None,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return Gemma4ForConditionalGeneration(config)


def _placed(shapes):
    """Patches of views, padded to one number, with their places (x, y); -1 is padding."""
    longest = max(h * w for h, w in shapes)
    pixels, places = (
        torch.zeros(len(shapes), longest, 147),
        torch.full((len(shapes), longest, 2), -1),
    )
    for i, (h, w) in enumerate(shapes):
        pixels[i, : h * w] = torch.rand(h * w, 147)
        places[i, : h * w] = torch.cartesian_prod(torch.arange(h), torch.arange(w)).flip(1)
    return pixels, places


def placed_images(model, count):
    pixels, places = _placed(SHAPES[:count])
    return {"pixel_values": pixels, "image_position_ids": places}, [6, 8, 4][:count]


def placed_videos(model, count):
    frames = [2, 3, 2][:count]
    pixels, places = _placed([s for s, n in zip(SHAPES, frames, strict=False) for _ in range(n)])
    inputs = {"pixel_values_videos": pixels, "video_position_ids": places}
    inputs["num_frames_per_video"] = torch.tensor(frames)
    return inputs, [12, 24, 8][:count]


CASES = [
    Case("aya_vision", aya_vision, internvl_images),
    Case("cohere2_vision", cohere2_vision, internvl_images),
    Case("vipllava", vipllava, llava_images),
    Case("deepseek_vl", deepseek_vl, llava_images),
    Case("qianfan_ocr", qianfan_ocr, internvl_images),
    Case("lighton_ocr", lighton_ocr, sized_images(2)),
    Case("mistral_large4", mistral_large4, sized_images(2), flash=False),
    Case("lfm2_vl", lfm2_vl, naflex_images, flash=False),
    Case("lfm3_vl", lfm3_vl, qwen_images, flash=False),
    Case("lfm3_vl-video", lfm3_vl, qwen_videos, frames=(2, 3, 2), flash=False, **VIDEOS),
    Case("llama4", llama4, internvl_images, flash=False),
    Case(
        "gemma4",
        gemma4,
        placed_images,
        linear=True,
        bidirectional="images",
        typed=True,
        flash=False,
    ),
    Case(
        "gemma4-video",
        gemma4,
        placed_videos,
        linear=True,
        bidirectional="images",
        typed=True,
        flash=False,
        placeholder=VIDEO,
        **TIMED,
    ),
]
