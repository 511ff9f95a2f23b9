"""Greedy tokens of vLLM beside those of transformers, for one architecture.

python -m tests.vllm.table NAME FOLDER   (in a process of its own: it holds an engine)

Prints one JSON object: for each check, how many answers were right and how many there were.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vllm import engine

NEW = 12
KEEPS = (1.0, 5, 0.4)


@dataclass(frozen=True)
class Case:
    """How an architecture's prompts look."""

    placeholder: str
    sizes: tuple[tuple[int, int], ...] = ((28, 28), (28, 28), (28, 28))  # width, height
    single: bool = False  # transformers treats several images of a prompt in another way
    embeds: bool = False  # takes images as embeddings
    prefixes: bool = True  # can be cached
    tokens: bool = True  # whether vLLM's unpruned answers are those of transformers, on a CPU


QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
SIZES = ((84, 56), (56, 112), (70, 98))
CASES = {
    "llava": Case("<image>", embeds=True),
    "pixtral": Case("[IMG]", SIZES),
    "llava_next": Case("<image>", ((60, 30), (50, 56), (24, 60))),
    "llava_onevision": Case("<image>", ((60, 30), (50, 56), (112, 84)), single=True),
    "qwen2_vl": Case(QWEN, SIZES, embeds=True),
    "qwen2_5_vl": Case(QWEN, SIZES, embeds=True),
    "qwen3_vl": Case(QWEN, SIZES),
    "qwen3_vl_moe": Case(QWEN, SIZES),
    # vLLM's linear attention is bf16 only on a CPU: answers are compared without such layers, which
    # its prefix cache asks for.
    "qwen3_5": Case(QWEN, SIZES, prefixes=False),
    "qwen3_5_moe": Case(QWEN, SIZES, prefixes=False),
    "qwen3_5_linear": Case(QWEN, SIZES, tokens=False),
    "qwen3_5_moe_linear": Case(QWEN, SIZES, tokens=False),
    "internvl": Case("<IMG_CONTEXT>", ((56, 56), (112, 56), (60, 120))),
    "mistral3": Case("[IMG]", SIZES),
    "gemma3": Case("<start_of_image>"),
}


def pictures(case: Case, seed: int = 0) -> list[Any]:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in case.sizes
    ]


def prompts(case: Case) -> list[tuple[str, list[Any]]]:
    """Texts with their pictures."""
    a, b, c = pictures(case)
    p = case.placeholder
    result = [(f"w1 w2 {p} w3", [a]), (f"{p} w9 w8 w7", [b]), (f"w4 w5 w6 {p} w7 w8", [c])]
    if not case.single:
        result += [(f"w1 {p} w2 w3 {p} w4", [a, b]), (f"w5 {p} {p} w6", [c, a])]
    return result


def reference(folder: Path, requests: list[tuple[str, list[Any]]], keep: Any) -> list[list[int]]:
    """Tokens of transformers, pruned to ``keep``; None: not pruned."""
    import torch
    import zoprune
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    if keep is not None:
        zoprune.prune(model, keep=keep)
    answers = []
    for text, images in requests:
        inputs = processor(text=[text], images=[images], return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        answers.append(ids[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


def features(folder: Path, picture: Any, case: Case) -> Any:
    """A picture as the embeddings that a request may bring along, from transformers."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = processor(text=[case.placeholder], images=[picture], return_tensors="pt")
    given = {n: inputs[n] for n in ("pixel_values", "image_sizes", "image_grid_thw") if n in inputs}
    with torch.no_grad():
        tokens = model.model.get_image_features(**given).pooler_output[0]
    if "image_grid_thw" in inputs:
        return {"image_embeds": tokens, "image_grid_thw": inputs["image_grid_thw"]}
    return tokens[None]


def ask(llm: Any, requests: list[tuple[str, list[Any], Any]]) -> list[list[int]]:
    """Tokens of vLLM for (text, pictures, keep) in one batch; keep None: the server's."""
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=NEW, temperature=0, ignore_eos=True)
    inputs: Any = [
        {
            "prompt": text,
            "multi_modal_data": {"image": images},
            "mm_processor_kwargs": {} if keep is None else {"zoprune_keep": keep},
        }
        for text, images, keep in requests
    ]
    outputs = llm.generate(inputs, sampling, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def random_pick(images: Any, keeps: Any, compared: int, options: Any) -> Any:
    import dataclasses

    from zoprune.vllm.picking import pick

    return pick(images, keeps, compared, dataclasses.replace(options, method="random"))


def right(got: list[Any], expected: list[Any]) -> list[int]:
    return [sum(a == b for a, b in zip(got, expected, strict=True)), len(expected)]


def run(name: str, folder: Path) -> dict[str, list[int]]:
    case = CASES[name]
    requests = prompts(case)
    expected = {k: reference(folder, requests, k) for k in (None, *KEEPS)}
    results = {"keep all: pruned = unpruned in transformers": right(expected[1.0], expected[None])}
    mixed = [(text, images, keep) for keep in KEEPS for text, images in requests]
    wanted = [answer for keep in KEEPS for answer in expected[keep]]

    # no caches, whole prompts: one by one, then all in one batch
    plain = dict(enable_prefix_caching=False, mm_processor_cache_gb=0)
    llm = engine.start(folder, 5, **plain)
    for keep in KEEPS:
        got = [ask(llm, [(text, images, keep)])[0] for text, images in requests]
        results[f"keep {keep} = zoprune.prune, one by one"] = right(got, expected[keep])
    default = ask(llm, [(text, images, None) for text, images in requests])
    results["the server's budget"] = right(default, expected[5])
    results["mixed budgets in a batch"] = right(ask(llm, mixed), wanted)
    engine.stop(llm)

    # prefix, encoder and processor caches, and chunks that end in the middle of images
    caches = dict(enable_prefix_caching=case.prefixes, max_num_batched_tokens=16)
    llm = engine.start(folder, 5, enable_mm_embeds=case.embeds, **caches)
    for turn in ("first", "second"):
        results[f"caches and chunks of 16, {turn} time"] = right(ask(llm, mixed), wanted)
    if case.embeds:
        text, images = requests[0]
        given = features(folder, images[0], case)
        results["features of a request are not pruned"] = right(
            ask(llm, [(text, given, 3)]), expected[None][:1]
        )
    # these checks can fail: other tokens of the same number give other answers
    from zoprune.vllm import model as worker

    worker.pick, right_pick = random_pick, worker.pick
    got = ask(llm, [(text, images, 4) for text, images in requests])  # a budget not asked for yet
    worker.pick = right_pick
    results["other tokens, other answers"] = [
        int(got != reference(folder, requests, 4)),
        1,
    ]
    engine.stop(llm)

    # without the option: vLLM's own class
    llm = engine.start(folder, enable_prefix_caching=case.prefixes)
    model = type(engine.model_of(llm))
    results["vLLM's own class"] = [int(model.__module__.startswith("vllm.")), 1]
    got = ask(llm, [(text, images, None) for text, images in requests])
    results["not pruned = transformers"] = right(got, expected[None])
    engine.stop(llm)
    return results


def encode(name: str, folder: Path) -> dict[str, list[int]]:
    """Where answers cannot be compared: what the encoder returns of three images, and the prompts.

    Kept rows must be rows of the whole image, at the places that they say.
    """
    import torch
    from transformers import AutoProcessor
    from zoprune.vllm.columns import from_columns
    from zoprune.vllm.options import KEEP, encode_keep
    from zoprune.vllm.positions import SHIFT

    case, keeps = CASES[name], (5, 0.4, 3)
    llm = engine.start(folder, 5, dtype="bfloat16")
    model = engine.model_of(llm)
    processor = AutoProcessor.from_pretrained(folder)
    text, images = case.placeholder * 3, pictures(case)
    inputs = processor(text=[text], images=[images], return_tensors="pt")
    given = {"pixel_values": inputs["pixel_values"].bfloat16()}
    given["image_grid_thw"] = inputs["image_grid_thw"]
    whole = model.embed_multimodal(**given)  # without a budget: vLLM's own
    with torch.inference_mode():
        codes = torch.tensor([encode_keep(keep) for keep in keeps], dtype=torch.float64)
        kept = model.embed_multimodal(**given, **{KEEP: codes})
    matches, lengths, width = [], [], model.pruning.width
    for all_rows, rows, (_, _, across) in zip(
        whole, kept, given["image_grid_thw"].tolist(), strict=True
    ):
        places = from_columns(rows[:, width:], torch.int32)
        index = (places >> SHIFT) * (across // 2) + (places & ((1 << SHIFT) - 1))
        matches.append(bool(torch.equal(all_rows[index], rows[:, :width])))
        lengths.append(len(index.unique()))
    expected = [5, round(0.4 * len(whole[1])), 3]
    answers = ask(llm, [(t, i, keep) for keep in (5, 1.0) for t, i in prompts(case)])
    engine.stop(llm)
    return {
        "kept rows are rows of the whole": right(matches, [True] * 3),
        "as many as the budget says": right(lengths, expected),
        "answers": right([len(answer) for answer in answers], [NEW] * len(answers)),
    }


def main(name: str, folder: Path) -> None:
    engine.prepare(folder / "cache")
    from tests.vllm import checkpoints

    checkpoint = folder / name
    if not checkpoint.exists():
        getattr(checkpoints, name)(checkpoint)
    check = run if CASES[name].tokens else encode
    print(json.dumps(check(name, checkpoint)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
