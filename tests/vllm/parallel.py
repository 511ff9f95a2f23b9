"""Answers of two ranks beside those of transformers.

python -m tests.vllm.parallel FOLDER   (in a process of its own, which starts the ranks)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.vllm import checkpoints, engine, table

TENSOR = dict(tensor_parallel_size=2)
SETTINGS = [
    ("llava", TENSOR),
    ("qwen2_5_vl", TENSOR),
    ("qwen2_5_vl", {**TENSOR, "mm_encoder_tp_mode": "data"}),  # each encodes some of the images
    ("llava", dict(pipeline_parallel_size=2)),  # the second stage has no tower
]


class Stage:
    """Makes a later stage's buffer; vLLM makes it in a warm-up that eager mode lacks on a CPU."""

    model_runner: Any

    def make_buffer(self) -> None:
        runner = self.model_runner
        if runner.intermediate_tensors is None and hasattr(
            runner.model, "make_empty_intermediate_tensors"
        ):
            runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=runner.dtype, device=runner.device
            )


def main(folder: Path) -> None:
    engine.prepare(folder / "cache")
    results = {}
    for name, options in SETTINGS:
        checkpoint = folder / name
        if not checkpoint.exists():
            getattr(checkpoints, name)(checkpoint)
        requests = table.prompts(table.CASES[name])
        expected = table.reference(checkpoint, requests, 5)
        llm = engine.start(
            checkpoint,
            5,
            distributed_executor_backend="mp",
            enable_prefix_caching=False,
            worker_extension_cls="tests.vllm.parallel.Stage",
            **options,
        )
        llm.collective_rpc("make_buffer")
        got = table.ask(llm, [(text, images, None) for text, images in requests])
        results[f"{name} {options}"] = table.right(got, expected)
        engine.stop(llm)
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
