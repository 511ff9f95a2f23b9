"""Counters of the workers in vLLM's own ``/metrics``.

A worker is a process of its own. It writes its counters to a file that it maps; the front end's
registry sums the files whenever it is asked. With several front ends, vLLM runs prometheus_client
in its multiprocess mode, which gathers the counters of every process by itself.
"""

from __future__ import annotations

import atexit
import mmap
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "ZOPRUNE_METRICS_DIR"
NAMES = ("images", "seen", "kept", "seconds")
METRICS = {
    "images": ("zoprune:images", "Images that were pruned."),
    "seen": ("zoprune:visual_tokens_in", "Visual tokens that the encoder produced."),
    "kept": ("zoprune:visual_tokens_kept", "Visual tokens that were kept of them."),
    "seconds": ("zoprune:scoring_seconds", "Time to score and to pick, as the host saw it."),
}
_layout = struct.Struct(f"{len(NAMES)}d")
_prepared = False


def prepare() -> None:
    """In the process that starts the workers: a folder for their files, and its collector."""
    global _prepared
    if _prepared:
        return
    _prepared = True
    if FOLDER not in os.environ:
        os.environ[FOLDER] = folder = tempfile.mkdtemp(prefix="zoprune-")
        atexit.register(_remove, folder, os.getpid())
    from prometheus_client import REGISTRY

    REGISTRY.register(_Collector(Path(os.environ[FOLDER])))


class Counters:
    """A worker's counters."""

    def __init__(self) -> None:
        self.values = dict.fromkeys(NAMES, 0.0)
        self._map: mmap.mmap | None = None
        self._prometheus: dict[str, Any] = {}
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            from prometheus_client import CollectorRegistry, Counter

            registry = CollectorRegistry()
            self._prometheus = {name: Counter(*METRICS[name], registry=registry) for name in NAMES}
        elif FOLDER in os.environ and Path(os.environ[FOLDER]).is_dir():
            with tempfile.NamedTemporaryFile(
                dir=os.environ[FOLDER], prefix=f"{os.getpid()}-", delete=False
            ) as file:
                file.write(bytes(_layout.size))
                file.flush()
                self._map = mmap.mmap(file.fileno(), _layout.size)

    def add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self.values[name] += amount
            if self._prometheus:
                self._prometheus[name].inc(amount)
        if self._map is not None:
            self._map[:] = _layout.pack(*self.values.values())


class _Collector:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def describe(self) -> Iterator[Any]:
        return self.collect()

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily

        totals = [0.0] * len(NAMES)
        for path in sorted(self.folder.glob("*")):
            data = path.read_bytes()
            if len(data) == _layout.size:
                totals = [a + b for a, b in zip(totals, _layout.unpack(data), strict=True)]
        for name, total in zip(NAMES, totals, strict=True):
            yield CounterMetricFamily(*METRICS[name], value=total)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
