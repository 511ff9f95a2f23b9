"""Time to first token of a whole VLM: unpruned, oracle, the paper's algorithm and ours.

    python -m benchmarks.e2e                                      # this CPU, few language layers
    python -m benchmarks.e2e --device cuda --layers 32 --batch 8  # a GPU, the full depth

The models have the real widths and random weights, on which speed does not depend. The oracle knows
the kept tokens for free: what ours takes beyond it is the price of choosing. All run in turns;
oracle and ours must give the same logits, or nothing is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import zoprune
from torch import Tensor
from zoprune import shortening

from .baselines import authors_selection, paper_sensitivity, sphere
from .timing import Times, in_turns

IMAGE = 1000  # the placeholder token
TEXT_TOKENS = 40
KEEP = {"llava": (64, 128, 192), "llava_next": (160, 320, 640)}  # of 576 and of 2880 + newlines
DIRECTIONS, STEP = 64, 0.01


def build(name: str, layers: int, dtype: torch.dtype, device: str) -> Any:
    """LLaVA-1.5 or LLaVA-NeXT at 7B widths with ``layers`` of the 32 language layers."""
    import transformers as hf

    vision = hf.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    text = hf.LlamaConfig(num_hidden_layers=layers, vocab_size=IMAGE + 1, pad_token_id=0)
    config, model = {
        "llava": (hf.LlavaConfig, hf.LlavaForConditionalGeneration),
        "llava_next": (hf.LlavaNextConfig, hf.LlavaNextForConditionalGeneration),
    }[name]
    arguments = {"image_token_id": IMAGE, "image_token_index": IMAGE}
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return model(config(vision_config=vision, text_config=text, **arguments)).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def inputs_of(model: Any, name: str, batch: int) -> dict[str, Tensor]:
    """One image and a short prompt for each row."""
    pixels = {"pixel_values": torch.randn(batch, 3, 336, 336)}
    tokens = 576
    if name == "llava_next":
        pixels = {"pixel_values": torch.randn(batch, 5, 3, 336, 336)}
        pixels["image_sizes"] = torch.tensor([[672, 672]] * batch)
        tokens = 5 * 576 + 48  # a newline for each row of the four crops
    text = torch.randint(1, IMAGE, (batch, TEXT_TOKENS))
    ids = torch.cat([torch.full((batch, tokens), IMAGE), text], dim=1)
    pixels["pixel_values"] = pixels["pixel_values"].to(model.dtype)
    inputs = {**pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {key: value.to(model.device) for key, value in inputs.items()}


@contextlib.contextmanager
def choosing(select: Callable | None) -> Iterator[None]:
    """Choose tokens by another function within the block."""
    if select is None:
        yield
        return
    with mock.patch.object(shortening, "select_tokens", select):
        yield


def paper_selector(keep: int) -> Callable:
    """The paper's algorithm in plain PyTorch: 128 projector passes, then the authors' loop."""

    def select(model: Any, tokens: Any, ids: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        mlp = model.model.multi_modal_projector
        layers = mlp.linear_1.weight, mlp.linear_1.bias, mlp.linear_2.weight, mlp.linear_2.bias
        directions = sphere(DIRECTIONS, tokens.x.shape[1]).to(tokens.x)
        scores = tokens.arranged(paper_sensitivity(tokens.x, *layers, directions, STEP))
        kept, start = [], 0
        for features in tokens.features:
            image = scores[start : start + len(features)]
            usable = (~image.isnan()).nonzero()[:, 0]  # newlines stay
            picks = usable[authors_selection(image[usable], features[usable], keep)]
            kept.append(start + torch.cat([picks, image.isnan().nonzero()[:, 0]]).sort().values)
            start += len(features)
        return torch.cat(kept), scores

    return select


def oracle_selector(model: Any, inputs: dict[str, Tensor]) -> Callable:
    """The tokens that ours keeps, known in advance."""
    known: list[tuple[Tensor, Tensor]] = []
    original = shortening.select_tokens

    def spy(*arguments: Any) -> tuple[Tensor, Tensor]:
        known.append(original(*arguments))
        return known[-1]

    with choosing(spy):
        model(**inputs)
    return lambda *arguments: known[0]


def measure(model: Any, inputs: dict[str, Tensor], keep: int, rounds: int) -> dict[str, Times]:
    """Times to the first token, after a check that oracle and ours agree."""
    zoprune.prune(model, keep)
    oracle = oracle_selector(model, inputs)
    with choosing(oracle):
        expected = model(**inputs).logits
    if not torch.equal(model(**inputs).logits, expected):
        raise SystemExit("benchmarks.e2e: oracle and ours give different logits")

    def first_token(select: Callable | None) -> Callable[[], None]:
        def call() -> None:
            with choosing(select):
                generate_one(model, inputs)

        return call

    return in_turns(
        {
            "oracle": first_token(oracle),
            "ours": first_token(None),
            "paper": first_token(paper_selector(keep)),
        },
        rounds,
    )


def generate_one(model: Any, inputs: dict[str, Tensor]) -> None:
    model.generate(**inputs, max_new_tokens=1)
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def cache_mib(model: Any, inputs: dict[str, Tensor]) -> float:
    """The key-value cache after the prompt."""
    cache = model(**inputs).past_key_values
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    return sum(t.nbytes for t in tensors) / 2**20


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=KEEP, default="llava")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--layers", type=int, default=4, help="language layers, of 32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--keep", type=int, nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    start = time.perf_counter()
    model = build(args.model, args.layers, getattr(torch, args.dtype), args.device)
    inputs = inputs_of(model, args.model, args.batch)
    generate_one(model, inputs)  # warm up
    full = in_turns({"": lambda: generate_one(model, inputs)}, args.rounds)[""]
    print(f"{args.model}, {args.layers} of 32 language layers, {args.dtype}, batch {args.batch}")
    print(f"unpruned: {full.median * 1e3:.0f} ms, cache {cache_mib(model, inputs):.0f} MiB")
    print("keep   oracle  ours (beyond oracle)  paper   unpruned/ours  paper/ours  cache")
    for keep in args.keep or KEEP[args.model]:
        times = measure(model, inputs, keep, args.rounds)
        oracle, ours, paper = (times[n].median * 1e3 for n in ("oracle", "ours", "paper"))
        print(
            f"{keep:4} {oracle:6.0f} ms {ours:5.0f} ms ({ours / oracle - 1:+6.1%})"
            f" {paper:10.0f} ms {full.median * 1e3 / ours:9.2f}x {paper / ours:9.2f}x"
            f" {cache_mib(model, inputs):6.0f} MiB"
        )
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
