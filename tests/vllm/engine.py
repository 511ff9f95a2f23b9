"""A small engine in this process, and the environment that it needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
OPTIONS = dict(
    dtype="float32",
    enforce_eager=True,
    max_model_len=512,
    max_num_seqs=4,
    disable_log_stats=True,
)


def prepare(cache: Path) -> None:
    """Before vllm is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("VLLM_CACHE_ROOT", str(cache))


def start(folder: Path, keep: Any = None, images: int = 3, **options: Any) -> Any:
    from vllm import LLM
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda look: look()  # it would import all of vLLM once more

    overrides = options.pop("overrides", {})
    if keep is not None:
        overrides = {"zoprune_keep": keep, **overrides}
    options = {**OPTIONS, "limit_mm_per_prompt": {"image": images, "video": 0}, **options}
    return LLM(model=str(folder), hf_overrides=overrides, **options)


def model_of(llm: Any) -> Any:
    return llm.llm_engine.model_executor.driver_worker.worker.model_runner.model


def stop(llm: Any) -> None:
    """End an engine, so that another one may start in this process."""
    import gc

    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
