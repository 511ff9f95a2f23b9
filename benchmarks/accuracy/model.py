"""The small model, of transformers' own classes, its tokenizer and its prompt.

CLIP tower (width 192, 4 layers, 336 x 336, 576 tokens), two-layer GELU projector, Llama (width 192,
4 layers). One word is one token; a question is answered with one word.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from . import tower
from .names import SIDE
from .questions import ANSWER, END, IDS, Question

TOKENS = tower.GRID**2
THETA = 1e6  # of the rotary embeddings: most of them hardly turn within a prompt
IMAGE = IDS["<image>"]
TEMPLATE = (
    "<s> <image> {% for part in messages[-1]['content'] if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endfor %} answer:"
)


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(dict(IDS), unk_token="<unk>"))
    words.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("?", " ?")]
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        model_input_names=["input_ids", "attention_mask"],
    )


def processor() -> LlavaProcessor:
    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        images,
        tokenizer(),
        patch_size=tower.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def build() -> LlavaForConditionalGeneration:
    text = LlamaConfig(
        vocab_size=len(IDS),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
    )
    config = LlavaConfig(
        vision_config=tower.config(),
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        _start_by_likeness(model)
    return model


def _start_by_likeness(model: LlavaForConditionalGeneration) -> None:
    """Attention starts between tokens that are alike, and copies what it finds.

    Queries and keys begin as the same projection, and outputs as the transpose of values (Trockman
    and Kolter, Mimetic initialization, 2023).
    """
    nn.init.normal_(model.get_input_embeddings().weight, std=0.1)
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        nn.init.orthogonal_(attention.q_proj.weight, gain=0.8)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        nn.init.orthogonal_(attention.v_proj.weight, gain=0.5)
        attention.o_proj.weight.copy_(attention.v_proj.weight.T)


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    processor().save_pretrained(folder)
    # transformers 5 writes names that 4 does not have, and reads those that both have.
    file, old, new = folder / "model.safetensors", "vision_tower.", "vision_tower.vision_model."
    weights = {name.replace(old, new): weight for name, weight in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    about = folder / "config.json"
    config = json.loads(about.read_text())
    config["text_config"]["rope_theta"] = THETA
    about.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    about = folder / "tokenizer_config.json"
    text = about.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast")
    about.write_text(text.replace("extra_special_tokens", "additional_special_tokens"))


def packed(questions: list[Question]) -> tuple[Tensor, Tensor, Tensor]:
    """Questions with their answers that share one picture.

    Returns words [n], the index [n] at which each one's question begins, and targets [n]: the
    answer behind "answer:", END behind the answer, -100 elsewhere.
    """
    words, starts, targets = [], [], []
    for question in questions:
        answer = IDS[question.answer]
        asked = [*(IDS[word] for word in question.text.split()), ANSWER, answer]
        start = len(words)
        words += asked
        starts += [start] * len(asked)
        targets += [-100] * (len(asked) - 2) + [answer, END]
    return torch.tensor(words), torch.tensor(starts), torch.tensor(targets)


def is_answer(targets: Tensor) -> Tensor:
    """Where an answer is due, one place a question."""
    return targets > END


def ask(
    model: LlavaForConditionalGeneration, images: Tensor, words: Tensor, starts: Tensor
) -> Tensor:
    """Logits [B, L, words] behind each column of the packed questions ``words`` [B, L].

    All questions of a picture share its visual tokens ``images`` [B, T, hidden], which a projector
    has made, and do not see one another; ``starts`` [B or 1, L] tells them apart.
    """
    embed = model.get_input_embeddings()
    size, longest = words.shape
    first = embed(words.new_ones(size, 1))
    inputs = torch.cat([first, images.to(first.dtype), embed(words)], 1)
    prefix, at = 1 + images.shape[1], torch.arange(longest, device=words.device)
    # every question stands right behind the picture
    position = torch.arange(prefix, device=at.device).expand(len(starts), -1)
    position = torch.cat([position, prefix + at - starts], 1)
    seen = torch.zeros(len(starts), 1, *[prefix + longest] * 2, dtype=torch.bool, device=at.device)
    seen[:, 0, :prefix, :prefix] = torch.ones_like(seen[0, 0, :prefix, :prefix]).tril()
    seen[:, 0, prefix:, :prefix] = True
    own = (at[None, None, :] <= at[None, :, None]) & (at[None, None, :] >= starts[:, :, None])
    seen[:, 0, prefix:, prefix:] = own
    hidden = torch.zeros(seen.shape, device=at.device).masked_fill_(~seen, -1e9)
    out = model.model.language_model(
        inputs_embeds=inputs,
        attention_mask=hidden,
        position_ids=position.expand(size, -1),
        use_cache=False,
    )
    return model.lm_head(out.last_hidden_state[:, prefix:])
