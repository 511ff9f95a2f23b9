"""InternVL in its original form: the tiny one of transformers under the old names."""

from __future__ import annotations

import json
from pathlib import Path

CONFIGURATION = """
from transformers import PretrainedConfig, Qwen2Config


class VisionConfig(PretrainedConfig):
    model_type = "intern_vit_6b"


class ChatConfig(PretrainedConfig):
    model_type = "internvl_chat"

    def __init__(self, vision_config=None, llm_config=None, **kwargs):
        self.vision_config = VisionConfig(**(vision_config or {}))
        self.llm_config = Qwen2Config(**(llm_config or {}))
        super().__init__(**kwargs)
"""
RENAMED = {
    "vision_tower.": "vision_model.",
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "patch_embeddings.projection": "patch_embedding",
    "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_": "ls",
    "multi_modal_projector.layer_norm": "mlp1.0",
    "multi_modal_projector.linear_1": "mlp1.1",
    "multi_modal_projector.linear_2": "mlp1.3",
}


def convert(checkpoint: Path, folder: Path) -> Path:
    """``checkpoint`` of ``checkpoints.internvl`` as ``InternVLChatModel``, one tile to an image."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    folder.mkdir()
    weights, parts = {}, {}
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        if not name.startswith("language_model."):
            for old, new in RENAMED.items():
                name = name.replace(old, new)
        if ".attention." in name:  # q, k and v of the vision tower, one matrix
            layer, part = name.split("attention.")
            parts[layer, part[0], part.rsplit(".", 1)[1]] = weight
        else:
            weights[name] = weight
    for layer, _, kind in [key for key in parts if key[1] == "q"]:
        whole = torch.cat([parts[layer, part, kind] for part in "qkv"])
        weights[f"{layer}attn.qkv.{kind}"] = whole
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    old = json.loads((checkpoint / "config.json").read_text())
    vision, text = old["vision_config"], old["text_config"]
    for name in ("image_size", "patch_size"):
        vision[name] = vision[name][0]
    vision |= dict(qkv_bias=False, qk_normalization=False, norm_type="layer_norm", num_channels=3)
    vision |= dict(initializer_factor=1.0, dropout=0.0, attention_dropout=0.0, drop_path_rate=0.0)
    text |= dict(
        architectures=["Qwen2ForCausalLM"], tie_word_embeddings="lm_head" not in str(list(weights))
    )
    config = dict(
        architectures=["InternVLChatModel"],
        model_type="internvl_chat",
        auto_map={"AutoConfig": "configuration.ChatConfig"},
        vision_config=vision,
        llm_config=text,
        force_image_size=56,
        downsample_ratio=0.5,
        select_layer=-1,
        ps_version="v2",
        min_dynamic_patch=1,
        max_dynamic_patch=1,
        dynamic_image_size=True,
        use_thumbnail=True,
        torch_dtype="float32",
    )
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration.py").write_text(CONFIGURATION)
    words = AutoTokenizer.from_pretrained(checkpoint)
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    words.save_pretrained(folder)
    return folder
