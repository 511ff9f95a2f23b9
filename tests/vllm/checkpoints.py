"""Tiny checkpoints on disk with their processors, as vLLM and transformers both load them."""

from __future__ import annotations

from tests import tiny
from tests.vllm.saving import checkpoint, text, tokenizer

CLIP = tiny.clip(32, 48)


def _clip_names(name: str) -> str:
    """transformers 5 leaves out a level that vLLM looks for."""
    if "vision_tower." in name and "vision_model." not in name:
        return name.replace("vision_tower.", "vision_tower.vision_model.")
    return name


@checkpoint(_clip_names)
def llava():
    import transformers

    words = tokenizer(["<image>"])
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP},
        text_config=text("llama", len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    pictures = transformers.CLIPImageProcessor(
        size={"height": 28, "width": 28}, do_center_crop=False
    )
    processor = transformers.LlavaProcessor(
        pictures,
        words,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


@checkpoint()
def qwen2_5_vl():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = tiny.qwen2_5_vl(32, 48, 64)
    words = qwen_tokenizer()
    config = Qwen2_5_VLConfig(vision_config=vision, **qwen("qwen2_5_vl", words))
    model = Qwen2_5_VLForConditionalGeneration(config)
    return model, qwen_processor("Qwen2_5_VLProcessor", words)


def qwen_tokenizer():
    special = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    chat = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'text' %}"
        "{{ c['text'] }}{% else %}" + picture + "{% endif %} {% endfor %}{% endfor %}"
    )
    return tokenizer(special, chat)


def qwen(kind: str, words, **more) -> dict:
    rope = {"rope_type": "default", "mrope_section": [8, 4, 4], "rope_theta": 10000.0, **more}
    ids = words.convert_tokens_to_ids
    return dict(
        text_config=text(f"{kind}_text", len(words), rope_parameters=rope, rope_scaling=rope),
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def qwen_processor(name: str, words, patch: int = 7):
    import transformers

    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (16 * patch) ** 2}
    shape = dict(patch_size=patch, merge_size=2, temporal_patch_size=2)
    pictures = transformers.Qwen2VLImageProcessor(size=size, **shape)
    kind = "Qwen3VLVideoProcessor" if "Qwen3" in name else "Qwen2VLVideoProcessor"
    videos = getattr(transformers, kind)(size=size, **shape)
    return getattr(transformers, name)(pictures, words, videos, chat_template=words.chat_template)


@checkpoint()
def qwen2_vl():
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = dict(depth=2, embed_dim=32, hidden_size=64, num_heads=2, mlp_ratio=2, patch_size=7)
    words = qwen_tokenizer()
    config = Qwen2VLConfig(vision_config=vision, **qwen("qwen2_vl", words))
    model = Qwen2VLForConditionalGeneration(config)
    return model, qwen_processor("Qwen2VLProcessor", words)


QWEN3_VISION = tiny.qwen3_vl(32, 48, 64)


@checkpoint()
def qwen3_vl():
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    words = qwen_tokenizer()
    config = Qwen3VLConfig(
        vision_config=QWEN3_VISION, **qwen("qwen3_vl", words, mrope_interleaved=True)
    )
    model = Qwen3VLForConditionalGeneration(config)
    return model, qwen_processor("Qwen3VLProcessor", words)


@checkpoint()
def qwen3_vl_moe():
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    words = qwen_tokenizer()
    shape = qwen("qwen3_vl_moe", words, mrope_interleaved=True)
    shape["text_config"] |= dict(
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,  # a matrix that is square could be read either way
        decoder_sparse_step=1,
        norm_topk_prob=True,  # as transformers does; vLLM asks
    )
    config = Qwen3VLMoeConfig(vision_config=QWEN3_VISION, **shape)
    model = Qwen3VLMoeForConditionalGeneration(config)
    return model, qwen_processor("Qwen3VLProcessor", words)


def _qwen3_5(kind: str, name: str, *layers: str, **more: int):
    import transformers

    words = qwen_tokenizer()
    shape = qwen(kind, words, mrope_interleaved=True, partial_rotary_factor=1.0)
    shape["text_config"] |= dict(
        layer_types=[f"{layer}_attention" for layer in layers],
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_conv_kernel_dim=4,
        **more,
    )
    vision = {k: v for k, v in QWEN3_VISION.items() if k != "deepstack_visual_indexes"}
    config = getattr(transformers, f"{name}Config")(vision_config=vision, **shape)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    return model, qwen_processor("Qwen3VLProcessor", words)


@checkpoint()
def qwen3_5():
    return _qwen3_5("qwen3_5", "Qwen3_5", "full", "full")


@checkpoint()
def qwen3_5_linear():
    return _qwen3_5("qwen3_5", "Qwen3_5", "linear", "full")


EXPERTS = dict(
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=64,
    shared_expert_intermediate_size=64,
)


@checkpoint()
def qwen3_5_moe():
    return _qwen3_5("qwen3_5_moe", "Qwen3_5Moe", "full", "full", **EXPERTS)


@checkpoint()
def qwen3_5_moe_linear():
    return _qwen3_5("qwen3_5_moe", "Qwen3_5Moe", "linear", "full", **EXPERTS)


@checkpoint(_clip_names)
def llava_next():
    import transformers

    words = tokenizer(["<image>"])
    grid = [[28, 56], [56, 28], [56, 56]]
    config = transformers.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP},
        text_config=text("llama", len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
    )
    pictures = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=grid
    )
    processor = transformers.LlavaNextProcessor(
        pictures,
        words,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


@checkpoint(_clip_names)
def llava_onevision():
    import transformers

    words = tokenizer(["<image>", "<video>"])
    grid = [[28, 56], [56, 28], [56, 56], [84, 112]]  # twelve crops are scaled down
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **CLIP},
        text_config=text("qwen2", len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_aspect_ratio="anyres_max_9",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    size = {"height": 28, "width": 28}
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid),
        words,
        transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


@checkpoint()
def internvl():
    import transformers

    words = tokenizer(
        ["<IMG_CONTEXT>", "<img>", "</img>", "<video>"],
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = transformers.InternVLConfig(
        vision_config=tiny.internvl(32, 48),
        text_config=text("qwen2", len(words)),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
    )
    size = {"height": 56, "width": 56}
    pictures = transformers.GotOcr2ImageProcessor(
        size=size, crop_to_patches=True, min_patches=1, max_patches=4
    )
    processor = transformers.InternVLProcessor(
        pictures, words, transformers.InternVLVideoProcessor(size=size), image_seq_length=16
    )
    return transformers.InternVLForConditionalGeneration(config), processor


PIXTRAL_VISION = tiny.pixtral(64, 96, head_dim=32, image_size=56)


def _pixtral_processor(words, side: int):
    from transformers import PixtralImageProcessor, PixtralProcessor

    pictures = PixtralImageProcessor(
        size={"longest_edge": 56}, patch_size={"height": side, "width": side}
    )
    return PixtralProcessor(pictures, words, patch_size=7, spatial_merge_size=side // 7)


@checkpoint()
def pixtral():
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    words = tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    config = LlavaConfig(
        vision_config=PIXTRAL_VISION,
        text_config=text("mistral", len(words), sliding_window=None),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaForConditionalGeneration(config), _pixtral_processor(words, 7)


@checkpoint()
def mistral3():
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    words = tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    config = Mistral3Config(
        vision_config=PIXTRAL_VISION,
        text_config=text("mistral", len(words), sliding_window=None),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    return Mistral3ForConditionalGeneration(config), _pixtral_processor(words, 14)


@checkpoint(_clip_names)
def gemma3():
    import transformers

    special = ["<start_of_image>", "<image_soft_token>", "<end_of_image>"]
    newlines = ["\n", "\n\n", "\n\n\n", "\n\n\n\n"]
    names = dict(zip(("boi_token", "image_token", "eoi_token"), special, strict=True))
    words = tokenizer([*special, *newlines], **names)
    vision = dict(CLIP, model_type="siglip_vision_model", image_size=56, vision_use_head=False)
    config = transformers.Gemma3Config(
        vision_config=vision,
        text_config=text(
            "gemma3_text", len(words), layer_types=["sliding_attention", "full_attention"]
        ),
        mm_tokens_per_image=16,
        boi_token_index=words.convert_tokens_to_ids(special[0]),
        image_token_index=words.convert_tokens_to_ids(special[1]),
        eoi_token_index=words.convert_tokens_to_ids(special[2]),
    )
    pictures = transformers.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    processor = transformers.Gemma3Processor(pictures, words, image_seq_length=16)
    model = transformers.Gemma3ForConditionalGeneration(config)
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_()  # zero as it is
    return model, processor
