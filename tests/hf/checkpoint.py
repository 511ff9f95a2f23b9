"""A checkpoint on disk: a tiny random LLaVA and its processor, a tokenizer of a few words."""

from pathlib import Path

import torch
import transformers

from tests.hf.mlp_models import llava

IMAGE_TOKEN = 5


def tokenizer_of_words() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of 99 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", "<unk>", ":", "<image>", "what", "is", "this", "red", "?"]
    vocabulary = {word: i for i, word in enumerate(words + [f"w{i}" for i in range(88)])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        model_input_names=["input_ids", "attention_mask"],
    )


def save_llava(folder: Path) -> Path:
    """Write the checkpoint; returns the folder."""
    tokenizer = tokenizer_of_words()
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28)
    transformers.LlavaProcessor(
        images, tokenizer, 7, "default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = llava()
    model.config.image_token_id = model.config.image_token_index = IMAGE_TOKEN
    model.save_pretrained(folder)
    return folder
