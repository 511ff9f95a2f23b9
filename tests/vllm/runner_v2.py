"""Answers of vLLM's V2 runner beside those of transformers.

python -m tests.vllm.runner_v2 FOLDER NAME   (in a process of its own: it holds an engine)

The runner's kernels are Triton's. No index has Triton for CPUs, so its interpreter stands in.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace


def interpret() -> None:
    """Before vllm is imported."""
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    from triton.backends import backends

    driver = SimpleNamespace(is_active=lambda: True)
    backends["cpu"] = SimpleNamespace(driver=driver, compiler=None)


def main(folder: Path, name: str) -> None:
    interpret()
    from tests.vllm import engine, table
    from tests.vllm.settings import made

    engine.prepare(folder / "cache")
    checkpoint, keeps = made(folder, name), (1.0, 5, 0.4)
    requests = table.prompts(table.CASES[name])
    expected = [a for keep in keeps for a in table.reference(checkpoint, requests, keep)]
    asked = [(text, images, keep) for keep in keeps for text, images in requests]
    llm = engine.start(checkpoint, 5, max_num_batched_tokens=16)
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    results = {"the V2 runner": [int(".gpu." in type(runner).__mro__[1].__module__), 1]}
    for turn in ("first", "second"):
        got = table.ask(llm, asked)
        results[f"caches and chunks of 16, {turn} time"] = table.right(got, expected)
    engine.stop(llm)
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
