"""Answers under what a server may be set to, beside those of transformers.

python -m tests.vllm.settings FOLDER NAME...   (in a process of its own: it holds engines)

Prints one JSON object: for each check, how many answers were right and how many there were.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.vllm import checkpoints, engine, table
from tests.vllm.internvl_chat import convert
from tests.vllm.quantise import quantise

Results = dict[str, list[int]]


def made(folder: Path, name: str) -> Path:
    checkpoint = folder / name
    if not checkpoint.exists():
        getattr(checkpoints, name)(checkpoint)
    return checkpoint


def lora(folder: Path) -> Results:
    """An adapter of the language model, the budget as ever."""
    import torch
    from safetensors.torch import load_file, save_file
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    checkpoint, adapter, merged = made(folder, "llava"), folder / "adapter", folder / "merged"
    weights = load_file(checkpoint / "model.safetensors")
    torch.manual_seed(1)
    rank, parts = 4, {}
    for name in [n for n in weights if n.endswith(("q_proj.weight", "o_proj.weight"))]:
        if "language_model" in name:
            a = torch.randn(rank, weights[name].shape[1])
            b = torch.randn(weights[name].shape[0], rank) / 8
            module = "base_model.model." + name.removesuffix(".weight")
            parts |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            weights[name] = weights[name] + 2 * b @ a  # alpha / rank
    adapter.mkdir()
    save_file(parts, adapter / "adapter_model.safetensors")
    settings = dict(peft_type="LORA", r=rank, lora_alpha=2 * rank, bias="none")
    settings["target_modules"] = ["q_proj", "o_proj"]
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    merged.mkdir()
    for path in checkpoint.iterdir():
        (merged / path.name).write_bytes(path.read_bytes())
    save_file(weights, merged / "model.safetensors", {"format": "pt"})

    requests = table.prompts(table.CASES["llava"])
    plain, adapted = (table.reference(c, requests, 5) for c in (checkpoint, merged))
    llm = engine.start(checkpoint, 5, enable_lora=True, max_lora_rank=8)
    sampling = SamplingParams(max_tokens=table.NEW, temperature=0, ignore_eos=True)
    inputs: Any = [{"prompt": t, "multi_modal_data": {"image": i}} for t, i in requests]
    lora = LoRARequest("adapter", 1, str(adapter))
    got = []
    for adapter in (None, lora):  # in one batch, vLLM's CPU kernels mix them up, unpruned too
        outputs = llm.generate(inputs, sampling, lora_request=adapter, use_tqdm=False)
        got += [list(output.outputs[0].token_ids) for output in outputs]
    engine.stop(llm)
    return {
        "LoRA: with and without an adapter": table.right(got, plain + adapted),
        "LoRA: the adapter matters": [int(plain != adapted), 1],
    }


def ngram(folder: Path) -> Results:
    """Speculative decoding without a draft model, with multimodal positions."""
    checkpoint = made(folder, "qwen2_5_vl")
    requests = table.prompts(table.CASES["qwen2_5_vl"])
    guess = dict(method="ngram", num_speculative_tokens=3, prompt_lookup_max=2, prompt_lookup_min=1)
    llm = engine.start(checkpoint, 5, speculative_config=guess, skip_mm_profiling=True)
    got = table.ask(llm, [(text, images, None) for text, images in requests])
    engine.stop(llm)
    return {"ngram": table.right(got, table.reference(checkpoint, requests, 5))}


def videos(folder: Path) -> Results:
    """Images and a video in one request: with every budget in a batch as one by one, in whatever
    chunks; whole as vLLM's own class. (vLLM and transformers time a video's frames differently.)"""
    import numpy as np
    from vllm import SamplingParams

    checkpoint, case = made(folder, "qwen2_5_vl"), table.CASES["qwen2_5_vl"]
    video = np.random.default_rng(5).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8)
    metadata = dict(total_num_frames=4, fps=2.0, frames_indices=[0, 1, 2, 3], duration=2.0)
    place = "<|vision_start|><|video_pad|><|vision_end|>"
    a, b, _ = table.pictures(case)
    requests = [
        (f"w1 {case.placeholder} w2 {place} w3", [a]),
        (f"w1 {place} w2 {case.placeholder} w3 {case.placeholder} w4", [b, a]),
        (f"{place} w7 w8", []),
    ]

    def ask(llm: Any, keeps: list[Any]) -> list[list[int]]:
        inputs: Any = [
            {
                "prompt": text,
                "multi_modal_data": {"video": [(video, {**metadata, "do_sample_frames": False})]}
                | ({"image": images} if images else {}),
                "mm_processor_kwargs": {} if keep is None else {"zoprune_keep": keep},
            }
            for keep in keeps
            for text, images in requests
        ]
        sampling = SamplingParams(max_tokens=table.NEW, temperature=0, ignore_eos=True)
        outputs = llm.generate(inputs, sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    options: Any = dict(limit_mm_per_prompt={"image": 2, "video": 1})
    llm = engine.start(checkpoint, **options)
    stock = ask(llm, [None])
    engine.stop(llm)
    llm = engine.start(checkpoint, 5, enable_prefix_caching=False, **options)
    alone = [ask(llm, [keep]) for keep in (1.0, 5, 0.4)]
    engine.stop(llm)
    llm = engine.start(checkpoint, 5, max_num_batched_tokens=16, **options)
    results = {"a video beside images: keep all = vLLM's own class": table.right(alone[0], stock)}
    for turn in ("first", "second"):
        got, expected = ask(llm, [1.0, 5, 0.4]), [answer for answers in alone for answer in answers]
        results[f"a video beside images, {turn} time"] = table.right(got, expected)
    engine.stop(llm)
    results["a video beside images: budgets matter"] = [int(alone[0][:2] != alone[1][:2]), 1]
    return results


def quantised(folder: Path) -> Results:
    """The language model in int8, tower and projector as they are: the same tokens are picked."""
    import torch
    from transformers import AutoProcessor
    from zoprune.vllm.options import KEEP, encode_keep

    checkpoint, case = made(folder, "llava"), table.CASES["llava"]
    small = quantise(checkpoint, folder / "quantised", ("language_model",))
    requests = [(text, images, None) for text, images in table.prompts(case)]
    processor = AutoProcessor.from_pretrained(checkpoint)
    inputs = processor(text=["<image>" * 3], images=[table.pictures(case)], return_tensors="pt")
    budgets = torch.tensor([encode_keep(keep) for keep in (5, 0.4, 3)], dtype=torch.float64)
    given = {"pixel_values": inputs["pixel_values"], KEEP: budgets}
    rows = []
    for path in (checkpoint, small):
        llm = engine.start(path, 5)
        with torch.inference_mode():
            rows.append(engine.model_of(llm).embed_multimodal(**given))
        whole = table.ask(llm, [(text, images, 1.0) for text, images, _ in requests])
        engine.stop(llm)
    llm = engine.start(small)
    stock = table.ask(llm, requests)
    engine.stop(llm)
    refused = quantise(checkpoint, folder / "refused", ("language_model", "multi_modal_projector"))
    try:
        engine.start(refused, 5)
        message = ""
    except Exception as error:
        message = str(error)
    named = "multi_modal_projector.linear_1.weight" in message and "may be quantised" in message
    return {
        "quantised: a projector in int8 is refused by name": [int(named), 1],
        "quantised: kept rows": table.right(
            [torch.equal(*pair) for pair in zip(*rows, strict=True)], [True] * 3
        ),
        "quantised: keep all = vLLM's own class": table.right(whole, stock),
    }


def internvl_chat(folder: Path) -> Results:
    """InternVL in its original form answers as that of transformers does."""
    import torch
    import zoprune
    from transformers import AutoModelForImageTextToText, AutoProcessor

    checkpoint = made(folder, "internvl")
    original = convert(checkpoint, folder / "internvl_chat")
    case = table.Case("<IMG_CONTEXT>", ((56, 56),) * 3)
    requests, keeps = table.prompts(case), (1.0, 5, 0.4)
    processor = AutoProcessor.from_pretrained(checkpoint)
    load = AutoModelForImageTextToText.from_pretrained
    expected = []
    for keep in keeps:
        model = zoprune.prune(load(checkpoint, dtype=torch.float32).eval(), keep=keep)
        for text, images in requests:
            inputs = processor(
                text=[text],
                images=[images],
                crop_to_patches=False,
                image_mean=[0.485, 0.456, 0.406],
                image_std=[0.229, 0.224, 0.225],
                return_tensors="pt",
            )
            with torch.no_grad():
                ids = model.generate(
                    **inputs, max_new_tokens=table.NEW, min_new_tokens=table.NEW, do_sample=False
                )
            expected.append(ids[0, inputs["input_ids"].shape[1] :].tolist())
    asked = [
        (text.replace("<IMG_CONTEXT>", "<image>"), images, keep)
        for keep in keeps
        for text, images in requests
    ]
    options = dict(trust_remote_code=True, max_num_batched_tokens=16)
    llm = engine.start(original, 5, **options)
    results = {}
    for turn in ("first", "second"):
        got = table.ask(llm, asked)
        results[f"InternVLChatModel, {turn} time"] = table.right(got, expected)
    engine.stop(llm)
    return results


def caches(folder: Path) -> Results:
    """One image under one uuid with budgets that Python holds for equal, and more than it has."""
    from vllm import SamplingParams

    checkpoint = made(folder, "llava")
    picture = table.pictures(table.CASES["llava"])[0]
    llm = engine.start(checkpoint, 5, mm_processor_cache_gb=1)
    sampling = SamplingParams(max_tokens=1, temperature=0)

    def tokens(keep: Any, uuid: str | None) -> int:
        request: Any = {
            "prompt": "w1 <image> w2",
            "multi_modal_data": {"image": [picture]},
            "mm_processor_kwargs": {} if keep is None else {"zoprune_keep": keep},
        }
        if uuid is not None:
            request["multi_modal_uuids"] = {"image": [uuid]}
        return len(llm.generate(request, sampling, use_tqdm=False)[0].prompt_token_ids) - 2

    budgets = {None: 5, 1.0: 16, 3: 3, 64: 16, 0.25: 4}
    got, expected = [], []
    for uuid in ("mine", None, "mine"):
        for keep, kept in [*budgets.items(), (1, 1), (1.0, 16), (None, 5)]:
            got.append(tokens(keep, uuid))
            expected.append(kept)
    refused = []
    for keep in (0, -1, "64", True, 1.5, [3]):
        try:
            tokens(keep, None)
            refused.append(False)
        except ValueError as error:
            refused.append("zoprune: zoprune_keep: expected a count" in str(error))
    engine.stop(llm)
    return {
        "budgets of one image": table.right(got, expected),
        "bad budgets": table.right(refused, [True] * 6),
    }


def text_only(folder: Path) -> Results:
    """A server that takes no images: the tower is not there."""
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=table.NEW, temperature=0, ignore_eos=True)
    results = {}
    for name in ("llava", "qwen2_5_vl"):
        answers = []
        for keep in (None, 5):
            llm = engine.start(made(folder, name), keep, images=0)
            output = llm.generate("w1 w2 w3", sampling, use_tqdm=False)[0]
            answers.append(list(output.outputs[0].token_ids))
            engine.stop(llm)
        results[f"{name} without images"] = [int(answers[0] == answers[1]), 1]
    return results


def graphs(folder: Path) -> Results:
    """What vLLM's manager of encoder graphs calls gives what the encoder gives."""
    import torch

    results: Results = {}
    for name in ("qwen2_vl", "qwen3_vl", "gemma3", "internvl_chat"):
        if name == "internvl_chat":
            checkpoint = convert(made(folder, "internvl"), folder / name)
            case = table.Case("<image>", ((56, 56),) * 3)
        else:
            checkpoint, case = made(folder, name), table.CASES[name]
        llm = engine.start(checkpoint, 5, trust_remote_code=True)
        model, seen = engine.model_of(llm), []
        embed = model.embed_multimodal

        def record(embed: Any = embed, seen: list[Any] = seen, **kwargs: Any) -> Any:
            seen.append((kwargs, embed(**kwargs)))
            return seen[-1][1]

        vars(model)["embed_multimodal"] = record
        table.ask(llm, [(text, images, 3) for text, images in table.prompts(case)])
        width, right, total = model.get_encoder_cudagraph_config().out_hidden_size, 0, 0
        for kwargs, images in seen:
            sizes = [spec.output_tokens for spec in model.get_encoder_cudagraph_item_specs(kwargs)]
            order = list(reversed(range(len(images))))
            with torch.inference_mode():
                part = model.select_encoder_cudagraph_items(kwargs, order)
                buffers = model.prepare_encoder_cudagraph_replay_buffers(part, 8, 8)
                for output in (
                    model.encoder_eager_forward(part),
                    model.encoder_cudagraph_forward(dict(buffers.values)),
                ):
                    dest: dict[int, torch.Tensor] = {}
                    model.postprocess_encoder_output(
                        {"default": output}, order, sizes, dest, True, part
                    )
                    total += len(images) + 1
                    right += output.shape[1] == width
                    right += sum(
                        torch.allclose(dest[i], x, atol=1e-5) for i, x in enumerate(images)
                    )
        results[f"{name} in encoder graphs"] = [right, total]
        engine.stop(llm)
    return results


SETTINGS: dict[str, Callable[[Path], Results]] = dict(
    lora=lora,
    ngram=ngram,
    videos=videos,
    quantised=quantised,
    internvl_chat=internvl_chat,
    caches=caches,
    text_only=text_only,
    graphs=graphs,
)


def main(folder: Path, *names: str) -> None:
    engine.prepare(folder / "cache")
    results: Results = {}
    for name in names or SETTINGS:
        results |= SETTINGS[name](folder)
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
