"""What pruning saves in vLLM: requests per second, time to the first token, KV blocks of a prompt.

    python -m benchmarks.vllm                  # this CPU: LLaVA-1.5 with 2 of 32 language layers
    python -m benchmarks.vllm --device cuda    # a GPU: all layers; also a part of `make gpu-report`
    python -m benchmarks.vllm --tiny           # a model of a few hundred kilobytes, to try it out

Unpruned, keep 128 and keep 64, each in an engine and a process of its own, on random weights and
different random pictures, so that no cache helps. On a CPU, which others may use too, the three
stand side by side and take turns: ratios are medians over rounds. A row counts only if its prompts
are as long as the budget says. A complete run is written to
``benchmarks/results/vllm-<machine>.json``; ``python -m benchmarks.readme`` makes it docs/vllm.md's
table.
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
SIZES = {  # language layers, rounds; in each round: requests at once, then single ones
    "cpu": (2, 5, 4, 1),
    "cuda": (32, 1, 256, 20),
    "tiny": (2, 2, 4, 1),
}
PREFIX = "vllm-"  # of the result files
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


def serve(folder: Path, size: str, keep: int | None) -> None:
    """An engine in this process: a line of JSON for each line on the standard input."""
    import numpy as np
    from PIL import Image
    from vllm import LLM, SamplingParams

    _, _, many, single = SIZES[size]
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

    block = llm.llm_engine.vllm_config.cache_config.block_size
    run(requests(2), NEW)  # warm up
    print("{}", flush=True)
    for _ in sys.stdin:
        first = statistics.median(run(requests(1), 1)[0] for _ in range(single))
        seconds, outputs = run(requests(many), NEW)
        lengths = sorted({len(output.prompt_token_ids) for output in outputs})
        answer = {
            "requests_per_second": many / seconds,
            "first_token_seconds": first,
            "lengths": lengths,
            "kv_blocks": math.ceil(lengths[-1] / block),
        }
        print(json.dumps(answer), flush=True)


class Engine:
    """An engine in a process of its own, and what its rounds measured."""

    def __init__(self, keep: int | None, command: list[str], environment: dict[str, str]) -> None:
        self.keep, self.rounds = keep, list[Row]()
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self._answer()

    def run(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.rounds.append(self._answer())

    def _answer(self) -> Row:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            if text.startswith("{"):
                return json.loads(text)
        self.log.seek(0)
        raise SystemExit(self.log.read()[-4000:])

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def summary(engine: Engine, unpruned: Engine) -> Row:
    """A row: medians over rounds, and how many times those of ``unpruned`` in the same round."""
    lengths = sorted({length for r in engine.rounds for length in r["lengths"]})
    row: Row = {
        "keep": engine.keep,
        "prompt_tokens": lengths[-1],
        "kv_blocks": engine.rounds[0]["kv_blocks"],
    }
    for name, better in (("requests_per_second", 1), ("first_token_seconds", -1)):
        row[name] = statistics.median(r[name] for r in engine.rounds)
        ratios = [
            (own[name] / other[name]) ** better
            for own, other in zip(engine.rounds, unpruned.rounds, strict=True)
        ]
        row[f"{name}_ratio"] = statistics.median(ratios)
        row[f"{name}_spread"] = [min(ratios), max(ratios)]
    tokens = 576 if engine.keep is None else engine.keep
    if lengths != [tokens + WORDS]:
        row["refused"] = f"prompts of {lengths} tokens, not of {tokens + WORDS}"
    return row


def line(row: Row) -> str:
    name = "unpruned" if row["keep"] is None else f"keep {row['keep']}"
    if "refused" in row:
        return f"{name:12}  REFUSED {row['refused']}"
    return (
        f"{name:12}{row['prompt_tokens']:>8}{row['kv_blocks']:>8}"
        f"{row['requests_per_second']:>12.2f}{row['first_token_seconds'] * 1e3:>11.1f} ms"
        f"   {row['requests_per_second_ratio']:.2f}x, "
        f"first token {row['first_token_seconds_ratio']:.2f}x"
    )


def document(results: list[dict[str, Any]]) -> str:
    """The section of docs/vllm.md: a table for each result file."""
    return "\n\n".join(map(_section, results)) or "Not measured yet."


def _section(result: dict[str, Any]) -> str:
    about, setting = result["machine"], result["setting"]
    lines = [
        f"**{about['name']}**, torch {about['torch']}, vLLM {setting['vllm']}, "
        f"{setting['model']} with {setting['layers']} of 32 language layers, random weights: times "
        f"faster than unpruned, median (least to most) of {setting['rounds']} rounds that take "
        f"turns, load average {setting['load']:.0f} on {about['cores']} cores "
        f"(`python -m benchmarks.vllm`, {about['date'][:10]})",
        "",
        "| | prompt tokens | KV blocks | requests per second | time to first token |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        name = "unpruned" if row["keep"] is None else f"keep {row['keep']}"
        ratios = [
            "1x" if row["keep"] is None else _ratio(row, kind)
            for kind in ("requests_per_second", "first_token_seconds")
        ]
        cells = [name, row["prompt_tokens"], row["kv_blocks"], *ratios]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _ratio(row: Row, name: str) -> str:
    least, most = row[f"{name}_spread"]
    return f"{row[f'{name}_ratio']:.1f}x ({least:.1f} to {most:.1f})"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the benchmark")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "KEEP"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    size = "tiny" if given.tiny else given.device
    if given.one:
        folder, keep = given.one
        serve(Path(folder), size, json.loads(keep))
        return 0
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "python")])
    environment.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if given.device == "cpu":
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    layers, rounds, *_ = SIZES[size]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder), size)
        command = [sys.executable, "-m", "benchmarks.vllm", *arguments, "--one", folder]
        engines: list[Engine] = []
        for keep in KEEPS:
            engines.append(Engine(keep, [*command, json.dumps(keep)], environment))
            if given.device == "cuda":  # one at a time: each takes the GPU's memory
                for _ in range(rounds):
                    engines[-1].run()
                engines[-1].stop()
        if given.device == "cpu":
            for _ in range(rounds):
                for engine in engines:
                    engine.run()
            for engine in engines:
                engine.stop()
    from zoprune.vllm.compat import version

    rows = [summary(engine, engines[0]) for engine in engines]
    print("\n".join([HEADING, *map(line, rows)]))
    setting = {
        "model": "LLaVA-1.5",
        "size": size,
        "layers": layers,
        "new": NEW,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "vllm": version(),
    }
    result = {"setting": setting, "rows": rows}
    write_part({"vllm": result})
    refused = any("refused" in row for row in rows)
    if not refused and given.device == "cpu" and not given.tiny:
        about = machine()
        path = RESULTS / f"{PREFIX}{file_name(about['name'])}"
        path.write_text(json.dumps({"machine": about, **result}, indent=1) + "\n")
    return int(refused)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
