"""What pruning saves in vLLM: requests per second, time to the first token, KV blocks of a prompt.

    python -m benchmarks.vllm                  # this CPU: LLaVA-1.5 with 2 of 32 language layers
    python -m benchmarks.vllm --device cuda    # a GPU: all layers; also a part of `make gpu-report`
    python -m benchmarks.vllm --tiny           # a model of a few hundred kilobytes, to try it out

Unpruned, keep 128 and keep 64, each in an engine and a process of its own, on random weights and
different random pictures, so that no cache helps. A row counts only if its prompts are as long as
the budget says. A complete run is written to ``benchmarks/results/vllm-<machine>.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .case import Row
from .gpu.runner import write_part
from .machine import RESULTS, ROOT, file_name, machine

KEEPS = (None, 128, 64)  # None: unpruned
WORDS = 40  # of text in each prompt
NEW = 16
SIZES = {  # language layers, requests in the throughput run, single requests
    "cpu": (2, 16, 5),
    "cuda": (32, 256, 20),
    "tiny": (2, 8, 3),
}
HEADING = f"{'':12}{'prompt':>8}{'blocks':>8}{'requests/s':>12}{'first token':>14}"


def checkpoint(folder: Path, size: str) -> None:
    """LLaVA-1.5 with random weights; on a GPU vLLM draws them itself."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    from .e2e.models import CLIP_LARGE, LLAMA_7B

    words = ["<pad>", "<s>", "<unk>", "<image>", *(f"w{i}" for i in range(1000))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    vision, text = dict(CLIP_LARGE), dict(LLAMA_7B)
    if size == "tiny":
        vision |= dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2)
        vision |= dict(num_attention_heads=2)
        text |= dict(hidden_size=64, intermediate_size=96, num_attention_heads=2)
    image = words.index("<image>")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text, num_hidden_layers=SIZES[size][0]),
        image_token_id=image,
        image_token_index=image,
        architectures=["LlavaForConditionalGeneration"],
        dtype="bfloat16",
    )
    side = vision["image_size"]
    square = {"height": side, "width": side}
    pictures = transformers.CLIPImageProcessor(size=square, crop_size=square)
    transformers.LlavaProcessor(
        pictures,
        fast,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    if size == "cuda":
        config.save_pretrained(folder)
        return
    torch.set_default_dtype(torch.bfloat16)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    _rename(folder)


def _rename(folder: Path) -> None:
    """transformers 5 leaves out a level of CLIP's names that vLLM looks for."""
    from safetensors.torch import load_file, save_file

    level, whole = "vision_tower.", "vision_tower.vision_model."
    for path in folder.glob("*.safetensors"):
        weights = load_file(path).items()
        named = {n if whole in n else n.replace(level, whole): w for n, w in weights}
        save_file(named, path, {"format": "pt"})
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)


def measure(folder: Path, size: str, keep: int | None) -> Row:
    """One row, in this process."""
    import numpy as np
    from PIL import Image
    from vllm import LLM, SamplingParams

    _, many, single = SIZES[size]
    llm = LLM(
        str(folder),
        dtype="bfloat16",
        load_format="dummy" if size == "cuda" else "auto",
        max_model_len=1024,
        limit_mm_per_prompt={"image": 1},
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        enforce_eager=size != "cuda",
        hf_overrides={} if keep is None else {"zoprune_keep": keep},
    )
    rng = np.random.default_rng(0)

    def requests(count: int) -> list[dict[str, Any]]:
        side = 336
        pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        texts = [" ".join(f"w{w}" for w in rng.integers(0, 1000, WORDS)) for _ in range(count)]
        return [
            {"prompt": f"<image> {text}", "multi_modal_data": {"image": Image.fromarray(picture)}}
            for text, picture in zip(texts, pixels, strict=True)
        ]

    def run(batch: list[dict[str, Any]], new: int) -> tuple[float, Any]:
        sampling = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
        start = time.perf_counter()
        outputs = llm.generate(batch, sampling, use_tqdm=False)  # type: ignore[arg-type]
        return time.perf_counter() - start, outputs

    run(requests(2), NEW)  # warm up
    first = statistics.median(run(requests(1), 1)[0] for _ in range(single))
    seconds, outputs = run(requests(many), NEW)
    lengths = {len(output.prompt_token_ids) for output in outputs}
    tokens = 576 if keep is None else keep
    row: Row = {
        "keep": keep,
        "prompt_tokens": max(lengths),
        "kv_blocks": math.ceil(max(lengths) / llm.llm_engine.vllm_config.cache_config.block_size),
        "requests_per_second": many / seconds,
        "first_token_seconds": first,
    }
    if lengths != {tokens + WORDS}:
        row["refused"] = f"prompts of {sorted(lengths)} tokens, not of {tokens + WORDS}"
    return row


def line(row: Row, unpruned: Row) -> str:
    name = "unpruned" if row["keep"] is None else f"keep {row['keep']}"
    if "refused" in row:
        return f"{name:12}  REFUSED {row['refused']}"
    faster = row["requests_per_second"] / unpruned["requests_per_second"]
    sooner = unpruned["first_token_seconds"] / row["first_token_seconds"]
    return (
        f"{name:12}{row['prompt_tokens']:>8}{row['kv_blocks']:>8}"
        f"{row['requests_per_second']:>12.2f}{row['first_token_seconds'] * 1e3:>11.1f} ms"
        f"   {faster:.2f}x, first token {sooner:.2f}x"
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the benchmark")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "KEEP"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    size = "tiny" if given.tiny else given.device
    if given.one:
        folder, keep = given.one
        print(json.dumps(measure(Path(folder), size, json.loads(keep))))
        return 0
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "python")])
    environment.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if given.device == "cpu":
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder), size)
        print(HEADING)
        for keep in KEEPS:
            command = [sys.executable, "-m", "benchmarks.vllm", *arguments]
            done = subprocess.run(
                [*command, "--one", folder, json.dumps(keep)],
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                print(done.stderr[-4000:])
                return 1
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(line(rows[-1], rows[0]), flush=True)
    setting = {"model": "LLaVA-1.5", "size": size, "layers": SIZES[size][0], "new": NEW}
    result = {"setting": setting, "rows": rows}
    write_part({"vllm": result})
    refused = any("refused" in row for row in rows)
    if not refused and given.device == "cpu" and not given.tiny:
        about = machine()
        path = RESULTS / f"vllm-{file_name(about['name'])}"
        path.write_text(json.dumps({"machine": about, **result}, indent=1) + "\n")
    return int(refused)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
