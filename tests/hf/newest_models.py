"""Tiny models of further families of transformers 5.24, and their images."""

import torch

from tests import tiny
from tests.hf.case import VIDEOS, Case
from tests.hf.grid_models import GRID, LLAMA, RECURRENT, grid_vision
from tests.hf.mlp_models import (
    CLIP,
    IMAGE,
    TEXT,
    VIDEO,
    _qwen,
    _qwen_pixels,
    anyres_images,
    llava_images,
    qwen_images,
    qwen_videos,
)

PATCHES = dict(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    patch_size=7,
)


def cosmos3_edge():
    from transformers import Cosmos3EdgeConfig, Cosmos3EdgeForConditionalGeneration

    config = Cosmos3EdgeConfig(
        vision_config={**PATCHES, "num_patches": 64},
        projector_hidden_size=40,
        **_qwen("cosmos3_edge"),
    )
    return Cosmos3EdgeForConditionalGeneration(config)


def cohere_compass():
    from transformers import CohereCompassConfig, CohereCompassForConditionalGeneration

    vision = grid_vision(num_position_embeddings=64, deepstack_visual_indexes=[0, 1])
    common = _qwen("cohere_compass")
    rope = common["text_config"].pop("rope_scaling")
    common["text_config"]["rope_parameters"] = {"full_attention": rope}
    config = CohereCompassConfig(vision_config=vision, **common)
    return CohereCompassForConditionalGeneration(config)


def exaone4_5():
    from transformers import Exaone4_5_Config, Exaone4_5_ForConditionalGeneration

    config = Exaone4_5_Config(
        vision_config={**tiny.qwen2_5_vl(24, 32, 32), "num_key_value_heads": 2},
        text_config={"model_type": "exaone4", "head_dim": 8, "sliding_window_pattern": 2, **TEXT},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return Exaone4_5_ForConditionalGeneration(config)


def paddleocr_vl():
    from transformers import PaddleOCRVLConfig, PaddleOCRVLForConditionalGeneration

    common = _qwen("paddleocr_vl")
    config = PaddleOCRVLConfig(vision_config={**PATCHES, "image_size": 56}, **common)
    return PaddleOCRVLForConditionalGeneration(config)


def single_patches(model, count):
    """Patches of one frame."""
    inputs, tokens = _qwen_pixels(
        model, [(1, 4, 6), (1, 8, 4), (1, 4, 4)][:count], "pixel_values", "image_grid_thw"
    )
    inputs["pixel_values"] = torch.randn(len(inputs["pixel_values"]), 3, 7, 7)
    return inputs, tokens


def flat_patches(model, count):
    inputs, tokens = single_patches(model, count)
    return inputs | {"pixel_values": inputs["pixel_values"].flatten(1)}, tokens


def minimax_m3():
    from transformers import MiniMaxM3SparseForConditionalGeneration, MiniMaxM3VLConfig

    text = {
        **TEXT,
        "head_dim": 8,
        "rotary_dim": 8,
        "dense_intermediate_size": 48,
        "shared_intermediate_size": 16,
        "intermediate_size": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": ["full_attention"] * 2,
        "mlp_layer_types": ["dense", "sparse"],
    }
    config = MiniMaxM3VLConfig(
        vision_config={**PATCHES, "image_size": 56},
        text_config=text,
        projector_hidden_size=40,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
    )
    return MiniMaxM3SparseForConditionalGeneration(config)


def janus():
    from transformers import JanusConfig, JanusForConditionalGeneration

    vision = {**PATCHES, "image_size": 28, "projection_dim": 32}
    codes = dict(base_channels=32, num_embeddings=8, latent_channels=32, channel_multiplier=[1, 1])
    codes |= dict(projection_dim=32, image_token_embed_dim=32)
    config = JanusConfig(
        vision_config=vision, vq_config=codes, text_config=LLAMA, image_token_id=IMAGE
    )
    return JanusForConditionalGeneration(config)


def got_ocr2():
    from transformers import GotOcr2Config, GotOcr2ForConditionalGeneration

    vision = {**PATCHES, "image_size": 112, "output_channels": 16, "mlp_dim": 32}
    vision |= dict(window_size=4, global_attn_indexes=[1], initializer_range=0.02)
    config = GotOcr2Config(
        vision_config=vision,
        text_config={"model_type": "qwen2", **TEXT},
        image_token_index=IMAGE,
    )
    return GotOcr2ForConditionalGeneration(config)


def large_images(model, count):
    return {"pixel_values": torch.randn(count, 3, 112, 112)}, [16] * count


def video_llama3():
    from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

    config = VideoLlama3Config(
        vision_config=PATCHES,
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return VideoLlama3ForConditionalGeneration(config)


def merged_images(model, count):
    grid = torch.tensor([(1, 4, 6), (1, 8, 4), (1, 4, 4)][:count])
    merge = torch.tensor([1, 2, 1][:count])
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 7 * 7)
    inputs = {"pixel_values": pixels, "image_grid_thw": grid, "image_merge_sizes": merge}
    return inputs, (grid.prod(1) // merge**2).tolist()


def merged_videos(model, count):
    grid = torch.tensor([(2, 4, 6), (3, 4, 4), (2, 4, 4)][:count])
    merge = torch.full((count,), 2)
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 7 * 7)
    inputs = {"pixel_values_videos": pixels, "video_grid_thw": grid, "video_merge_sizes": merge}
    tokens = (grid.prod(1) // 4).tolist()
    held = torch.ones(sum(tokens), dtype=torch.bool)  # as the processor gives it
    return inputs | {"video_compression_mask": held}, tokens


def llava_next_video():
    from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    config = LlavaNextVideoConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP},
        text_config=LLAMA,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )
    return LlavaNextVideoForConditionalGeneration(config)


def pooled_videos(model, count):
    return {"pixel_values_videos": torch.randn(count, 3, 3, 28, 28)}, [3 * 4] * count


def hyperclovax():
    from transformers import HyperCLOVAXVisionV2Config, HyperCLOVAXVisionV2ForConditionalGeneration

    config = HyperCLOVAXVisionV2Config(
        vision_config={"model_type": "qwen2_5_vl_vision", **tiny.qwen2_5_vl(24, 32, 32)},
        text_config={"model_type": "hyperclovax", "head_dim": 8, **TEXT},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return HyperCLOVAXVisionV2ForConditionalGeneration(config)


def cosmos3_omni():
    from transformers import Cosmos3OmniConfig, Cosmos3OmniForConditionalGeneration

    vision = {"model_type": "qwen3_vl_vision", **tiny.qwen3_vl(24, 32, 32)}
    config = Cosmos3OmniConfig(vision_config=vision, **_qwen("qwen3_vl"))
    return Cosmos3OmniForConditionalGeneration(config)


def minicpm_v(name="MiniCPMV4_6", **more):
    import transformers

    text = _qwen("qwen3_5")["text_config"] | RECURRENT
    del text["rope_scaling"]
    config = getattr(transformers, f"{name}Config")(
        downsample_mode="16x",
        vision_config={**PATCHES, "image_size": 112, "insert_layer_id": 0},
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        insert_layer_id=0,
        **more,
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def minicpm_ocr():
    return minicpm_v("MiniCPMOcr")


def strips(model, count):
    """Slices of 4 x 4 patches a token, one behind the other."""
    sizes = torch.tensor([(8, 12), (16, 8), (8, 8)][:count])
    pixels = torch.randn(1, 3, 7, 7 * int(sizes.prod(1).sum()))
    return {"pixel_values": pixels, "target_sizes": sizes}, (sizes.prod(1) // 16).tolist()


def strip_videos(model, count):
    inputs, tokens = strips(model, count)
    pixels, sizes = inputs.values()
    return {"pixel_values_videos": pixels, "target_sizes_videos": sizes}, tokens


PLAIN = dict(flash=False)
CASES = [
    Case("minicpm_v", minicpm_v, strips, **PLAIN),
    Case("minicpm_v-video", minicpm_v, strip_videos, placeholder=VIDEO, modality="video", **PLAIN),
    Case("minicpm_ocr", minicpm_ocr, strips, **PLAIN),
    Case("cosmos3_edge", cosmos3_edge, flat_patches, **PLAIN, **GRID),
    Case("cosmos3_omni", cosmos3_omni, qwen_images, deepstack=True, **PLAIN, **GRID),
    Case("cohere_compass", cohere_compass, qwen_images, deepstack=True, **PLAIN, **GRID),
    Case("paddleocr_vl", paddleocr_vl, single_patches, **PLAIN, **GRID),
    Case("minimax_m3", minimax_m3, qwen_images, **PLAIN),
    Case("video_llama3", video_llama3, merged_images, **PLAIN),
    Case("video_llama3-video", video_llama3, merged_videos, frames=(2, 3, 2), **PLAIN, **VIDEOS),
    Case("llava_next_video", llava_next_video, anyres_images, **PLAIN),
    Case(
        "llava_next_video-video",
        llava_next_video,
        pooled_videos,
        frames=(3, 3, 3),
        **PLAIN,
        **VIDEOS,
    ),
    Case("hyperclovax", hyperclovax, qwen_images, linear=True, by_columns=True, **PLAIN),
    Case("got_ocr2", got_ocr2, large_images, linear=True, **PLAIN),
    Case("janus", janus, llava_images, **PLAIN),
    Case("exaone4_5", exaone4_5, qwen_images, by_columns=True, **PLAIN),
    Case(
        "exaone4_5-video",
        exaone4_5,
        qwen_videos,
        frames=(2, 3, 2),
        by_columns=True,
        **PLAIN,
        **VIDEOS,
    ),
]
