"""Writes a tiny model and its processor to a folder, as vLLM and transformers both load them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Rename = Callable[[str], str]
WORDS = 64  # ordinary tokens "w0" ... beside the special ones
TEXT = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=4096,
    bos_token_id=1,
    eos_token_id=None,
    pad_token_id=0,
    tie_word_embeddings=False,
)
SPECIAL = ["<pad>", "<s>", "<unk>"]


def tokenizer(special: list[str], chat: str | None = None, **named: str):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIAL, *special, *(f"w{i}" for i in range(WORDS))]
    words = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        unk_token="<unk>",
        additional_special_tokens=special,
        **({"extra_special_tokens": named} if named else {}),
    )
    fast.chat_template = chat or (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'text' %}"
        "{{ c['text'] }}{% else %}" + special[0] + "{% endif %} {% endfor %}{% endfor %}"
    )
    return fast


def as_it_is(name: str) -> str:
    return name


def checkpoint(rename: Rename = as_it_is) -> Callable[..., Any]:
    """Makes of a function that returns a model and its processor one that writes them to a folder,
    with weights large enough for tokens to differ in sensitivity, and ``rename``d."""

    def wrap(build: Callable[[], tuple[Any, Any]]) -> Callable[[Path], Path]:
        @functools.wraps(build)
        def write(folder: Path) -> Path:
            torch.manual_seed(0)
            return save(*build(), folder, rename)

        return write

    return wrap


def save(model: Any, processor: Any, folder: Path, rename: Rename = as_it_is) -> Path:
    from safetensors.torch import load_file, save_file

    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.mul_(4)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = {rename(name): _as_published(name, w) for name, w in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    processor.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["torch_dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _as_published(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Experts' matrices [experts, in, out], as in the published checkpoints."""
    is_expert = ".experts." in name and weight.dim() == 3
    return weight.transpose(1, 2).contiguous() if is_expert else weight


def text(kind: str, vocabulary: int, **more) -> dict:
    return {"model_type": kind, **TEXT, "vocab_size": vocabulary, **more}
