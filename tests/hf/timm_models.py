"""Tiny models of the families whose vision tower is timm's.

Where timm is not installed, one of transformers' own takes its place and answers as timm's would.
"""

import importlib.util

import torch

from tests.hf.case import Case
from tests.hf.grid_models import LLAMA
from tests.hf.mlp_models import CLIP, IMAGE, TEXT, VIDEO

TIMM = importlib.util.find_spec("timm") is not None
# an attention tower and one of convolutions, each with 8 x 8 or 4 x 4 patches of an image
ATTENTION = dict(
    architecture="vit_pe_core_large_patch14_336",
    model_args=dict(
        embed_dim=24,
        depth=2,
        num_heads=2,
        img_size=(56, 56),
        patch_size=7,
        ref_feat_shape=(8, 8),
        global_pool="",
        use_post_transformer_norm=False,
        init_values=0.1,
    ),
)
CONVOLUTIONS = dict(
    architecture="fastvit_mci3",
    hidden_size=32,
    initializer_range=0.1,  # with 0.02 all features are about 0
    model_args=dict(
        layers=(1, 1),
        embed_dims=(8, 16),
        mlp_ratios=(2, 2),
        downsamples=(False, True),
        se_downsamples=(False, False),
        token_mixers=("repmixer", "repmixer"),
        pos_embs=(None, None),
        lkc_use_act=True,
        stem_use_scale_branch=False,
        inference_mode=True,
    ),
)


def answer_as_timm(module, args, output):
    """A forward hook: hidden states and what was pooled, in the class of timm's towers."""
    from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModelOutput

    return TimmWrapperModelOutput(last_hidden_state=output[0], pooler_output=output[1])


def with_tower(model):
    """The model, whose tower is timm's or answers like it."""
    if not TIMM:
        model.model.vision_tower.register_forward_hook(answer_as_timm)
    return model


def fast_vlm():
    from transformers import FastVlmForConditionalGeneration, ResNetConfig

    own = dict(embedding_size=8, hidden_sizes=[8, 32], depths=[1, 1], layer_type="basic")
    tower = CONVOLUTIONS if TIMM else {**ResNetConfig(**own).to_dict(), "hidden_size": 32}
    return with_tower(FastVlmForConditionalGeneration(fast_vlm_config(tower)))


def fast_vlm_config(tower):
    from transformers import FastVlmConfig

    text = {"model_type": "qwen2", **TEXT}
    return FastVlmConfig(vision_config=tower, text_config=text, image_token_index=IMAGE)


def small_images(model, count):
    return {"pixel_values": torch.randn(count, 3, 32, 32)}, [16] * count


def perception_lm():
    from transformers import PerceptionLMConfig, PerceptionLMForConditionalGeneration

    own = {"model_type": "clip_vision_model", **CLIP, "image_size": 56}
    own["model_args"] = {"embed_dim": 24}
    config = PerceptionLMConfig(
        vision_config=ATTENTION if TIMM else own,
        text_config=LLAMA,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        projector_pooling_ratio=2,
    )
    return with_tower(PerceptionLMForConditionalGeneration(config))


def tiles(model, count):
    return {"pixel_values": torch.randn(1, count, 3, 56, 56)}, [16] * count


def tile_videos(model, count):
    inputs, tokens = tiles(model, count)
    return {"pixel_values_videos": inputs["pixel_values"]}, tokens


VIDEOS = dict(placeholder=VIDEO, modality="video")
CASES = [
    Case("perception_lm", perception_lm, tiles, flash=False),
    Case("perception_lm-video", perception_lm, tile_videos, flash=False, **VIDEOS),
    Case("fast_vlm", fast_vlm, small_images, flash=False),
]
