"""Tiny models of Inkling 2, MiniCPM-V 4.7, Step 3.7 and Video-LLaVA, and their images."""

import torch

from tests.hf.case import VIDEOS, Case
from tests.hf.grid_models import LLAMA
from tests.hf.mlp_models import (
    CLIP,
    IMAGE,
    TEXT,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCAB,
    llava_images,
)
from tests.hf.newest_models import PATCHES, minicpm_v, strip_videos, strips

SLICE_START, SLICE_END, NEWLINE = 86, 87, 85  # around the slices of a photo of MiniCPM-V 4.7
CANVAS = dict(
    image_start_id=VISION_START,
    image_end_id=VISION_END,
    slice_start_id=SLICE_START,
    slice_end_id=SLICE_END,
    newline_id=NEWLINE,
)


def minicpm_v4_7():
    return minicpm_v("MiniCPMV4_7", **CANVAS)


def inkling2(name="Inkling2", **more):
    import transformers

    text = {k: v for k, v in TEXT.items() if k != "intermediate_size"}
    text |= dict(
        unpadded_vocab_size=VOCAB,
        head_dim=8,
        swa_num_attention_heads=4,
        swa_num_key_value_heads=2,
        swa_head_dim=8,
        sliding_window_size=9,
        d_rel=4,
        rel_extent=16,
        layer_types=["hybrid_sliding", "hybrid"],
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        route_scale=1.0,
        n_layers_per_attn_res_block=1,
    )
    config = getattr(transformers, f"{name}Config")(
        vision_config={
            **PATCHES,
            "posemb_grid_size": 4,
            "projection_hidden_dim": 40,
            "text_hidden_size": 32,
        },
        text_config=text | more,
        image_token_id=IMAGE,
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def inkling2_loop():
    return inkling2(
        "Inkling2Loop",
        loop_layer_index_start=1,
        loop_layer_index_end=2,
        loop_num_passes=2,
        loop_gate_rank=4,
    )


def token_pixels(model, count):
    """The pixels of each token, 2 x 2 patches."""
    grid = torch.tensor([(1, 2, 3), (1, 4, 2), (1, 2, 2)][:count])
    tokens = grid.prod(1)
    return {
        "pixel_values": torch.randn(int(tokens.sum()), 14, 14, 3),
        "image_grid_thw": grid,
    }, tokens.tolist()


def step3p7():
    from transformers import Step3p7Config, Step3p7ForConditionalGeneration

    text = dict(
        head_dim=8,
        moe_intermediate_size=16,
        share_expert_dim=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention"],
        mlp_layer_types=["dense", "sparse"],
    )
    vision = dict(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=112,
        patch_size=7,
        mlp_ratio=2.0,
        max_position_embeddings=256,
    )
    config = Step3p7Config(vision_config=vision, text_config={**TEXT, **text}, image_token_id=IMAGE)
    return Step3p7ForConditionalGeneration(config)


CROPS = ((9, 9, 16), (16,), (9, 16))  # the last one shows the whole


def cropped_images(model, count):
    crops = [len(views) - 1 for views in CROPS[:count]]
    inputs = {
        "pixel_values": torch.randn(count, 3, 112, 112),
        "pixel_values_local": torch.randn(sum(crops), 3, 84, 84),
        "num_local_patches": torch.tensor(crops),
    }
    return inputs, [sum(views) for views in CROPS[:count]]


def video_llava():
    from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

    config = VideoLlavaConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP},
        text_config=LLAMA,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
    )
    return VideoLlavaForConditionalGeneration(config)


def class_token_videos(model, count):
    return {"pixel_values_videos": torch.randn(count, 3, 3, 28, 28)}, [3 * 17] * count


CASES = [
    Case("minicpm_v4_7", minicpm_v4_7, strips, mrope=True, flash=False),
    Case(
        "minicpm_v4_7-video",
        minicpm_v4_7,
        strip_videos,
        placeholder=VIDEO,
        modality="video",
        mrope=True,
        flash=False,
    ),
    Case("inkling2", inkling2, token_pixels, by_columns=True, flash=False),
    Case("inkling2_loop", inkling2_loop, token_pixels, by_columns=True, flash=False),
    Case("step3p7", step3p7, cropped_images, linear=True, groups="crop", crops=CROPS, flash=False),
    Case("video_llava", video_llava, llava_images, flash=False),
    Case(
        "video_llava-video",
        video_llava,
        class_token_videos,
        frames=(3, 3, 3),
        flash=False,
        **VIDEOS,
    ),
]
