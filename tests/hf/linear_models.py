"""Tiny models whose projector is one linear layer, random weights, and their images."""

import torch

from tests.hf.mlp_models import CLIP, IMAGE, TEXT

SIGLIP = dict(**CLIP, model_type="siglip_vision_model", vision_use_head=False)
GEMMA = {**TEXT, "head_dim": 8}


def paligemma():
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    config = PaliGemmaConfig(
        vision_config={**SIGLIP, "projection_dim": 32},
        text_config={"model_type": "gemma", **GEMMA},
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    return PaliGemmaForConditionalGeneration(config)


def gemma3():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {**GEMMA, "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}
    config = Gemma3Config(
        vision_config={**SIGLIP, "image_size": 56},
        text_config={"model_type": "gemma3_text", "query_pre_attn_scalar": 8, **text},
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        mm_tokens_per_image=16,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    return model


def idefics3(name="Idefics3"):
    import transformers

    kind = name.lower()
    config = getattr(transformers, f"{name}Config")(
        vision_config={"model_type": f"{kind}_vision", **CLIP, "image_size": 56},
        text_config={"model_type": "llama", **TEXT},
        image_token_id=IMAGE,
        scale_factor=2,
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def smolvlm():
    return idefics3("SmolVLM")


VIEWS = (5, 1, 3)  # of each image, the last one shows the whole
VIEW = 16  # tokens


def view_images(model, count):
    pixels = [torch.randn(views, 3, 56, 56) for views in VIEWS[:count]]
    return {"pixel_values": pixels}, [VIEW * views for views in VIEWS[:count]]
