"""Tiny models whose projector is an MLP, random weights, and their images."""

import torch

from tests import tiny

VOCAB, IMAGE, VIDEO, PAD = 99, 90, 91, 0
VISION_START, VISION_END = 88, 89  # around the images of models with multimodal positions
TEXT = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=None,
)
CLIP = tiny.clip(24, 32)


def llava():
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=IMAGE,
        image_token_id=IMAGE,
    )
    return LlavaForConditionalGeneration(config)


def llava_images(model, count):
    return {"pixel_values": torch.randn(count, 3, 28, 28)}, [16] * count


def pixtral():
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=tiny.pixtral(24, 32, image_size=64),
        text_config={"model_type": "mistral", "head_dim": 8, **TEXT},
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaForConditionalGeneration(config)


SIZES = [(28, 42), (56, 28), (28, 28)]  # of pictures that keep their aspect ratio, in pixels


def sized_images(merge):
    """Pictures of different sizes, padded to one; a token is merge x merge patches of 7 x 7."""

    def images(model, count):
        sizes = SIZES[:count]
        height, width = (max(s[i] for s in sizes) for i in (0, 1))
        pixels = torch.zeros(count, 3, height, width)
        for picture, (h, w) in zip(pixels, sizes, strict=True):
            picture[:, :h, :w] = torch.randn(3, h, w)
        tokens = [h // (7 * merge) * (w // (7 * merge)) for h, w in sizes]
        return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}, tokens

    return images


def mistral3():
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    config = Mistral3Config(
        vision_config=tiny.pixtral(24, 32, image_size=64),
        text_config={"model_type": "mistral", "head_dim": 8, **TEXT},
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        spatial_merge_size=2,
    )
    return Mistral3ForConditionalGeneration(config)


def llava_next():
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )
    return LlavaNextForConditionalGeneration(config)


def llava_onevision():
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **CLIP},
        text_config={"model_type": "qwen2", **TEXT},
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        video_token_index=VIDEO,
        video_token_id=VIDEO,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        vision_aspect_ratio="anyres_max_2",
    )
    return LlavaOnevisionForConditionalGeneration(config)


def anyres_images(model, count):
    """Pictures of different shapes: a base view and two or four crops each."""
    sizes = torch.tensor([(30, 60), (56, 50), (60, 24)][:count])
    inputs = {"pixel_values": torch.randn(count, 5, 3, 28, 28), "image_sizes": sizes}
    with torch.no_grad():
        features = model.model.get_image_features(**inputs)
    return inputs, [len(f) for f in getattr(features, "pooler_output", features)]


def onevision_videos(model, count):
    return {"pixel_values_videos": torch.randn(count, 3, 3, 28, 28)}, [3 * 4 + 1] * count


def qwen2_vl():
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = dict(depth=2, embed_dim=24, hidden_size=32, num_heads=2, mlp_ratio=2, patch_size=7)
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, **_qwen("qwen2_vl")))


def qwen2_5_vl():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = tiny.qwen2_5_vl(24, 32, 32)
    config = Qwen2_5_VLConfig(vision_config=vision, **_qwen("qwen2_5_vl"))
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl():
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = tiny.qwen3_vl(24, 32, 32)
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, **_qwen("qwen3_vl")))


def _qwen(kind):
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    text = {**TEXT, "head_dim": 8, "rope_scaling": rope, "rope_parameters": rope}
    return dict(
        text_config={"model_type": f"{kind}_text", **text},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )


GRIDS = [(1, 4, 6), (1, 8, 4), (1, 4, 4)]  # frames, rows and columns of patches


def qwen_images(model, count):
    return _qwen_pixels(model, GRIDS[:count], "pixel_values", "image_grid_thw")


def qwen_videos(model, count):
    grids = [(2, 4, 6), (3, 4, 4), (2, 4, 4)][:count]
    return _qwen_pixels(model, grids, "pixel_values_videos", "video_grid_thw")


def _qwen_pixels(model, grids, pixels, name):
    grid = torch.tensor(grids)
    patches, channels = int(grid.prod(1).sum()), 3 * 2 * 7 * 7  # two frames to a patch
    tokens = (grid.prod(1) // 4).tolist()
    return {pixels: torch.randn(patches, channels), name: grid}, tokens


def internvl():
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    config = InternVLConfig(
        vision_config=tiny.internvl(24, 32),
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=IMAGE,
        image_seq_length=16,
    )
    return InternVLForConditionalGeneration(config)


def internvl_images(model, count):
    return {"pixel_values": torch.randn(count, 3, 56, 56)}, [16] * count
