"""Answers of two tensor-parallel ranks beside those of transformers.

python -m tests.vllm.parallel FOLDER   (in a process of its own, which starts the ranks)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.vllm import checkpoints, engine, table

SETTINGS = [
    ("llava", {}),
    ("qwen2_5_vl", {}),
    ("qwen2_5_vl", {"mm_encoder_tp_mode": "data"}),  # each rank encodes some of the images
]


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
            tensor_parallel_size=2,
            distributed_executor_backend="mp",
            enable_prefix_caching=False,
            **options,
        )
        got = table.ask(llm, [(text, images, None) for text, images in requests])
        results[f"{name} {options}"] = table.right(got, expected)
        engine.stop(llm)
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
