"""Counters of several workers reach one registry, in both of prometheus_client's modes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from zoprune.vllm import metrics

prometheus = pytest.importorskip("prometheus_client")
ADD = "from zoprune.vllm.metrics import Counters; Counters().add(images=2, seen=32, kept=5)"
ROOT = Path(__file__).parents[2]


def add_in_a_worker(**environment):
    path = os.pathsep.join([str(ROOT), str(ROOT / "python")])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    subprocess.run([sys.executable, "-c", ADD], env=environment, check=True)


def samples(registry):
    text = prometheus.generate_latest(registry).decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("zoprune:"))
    return {name: float(value) for name, value in lines if "_created" not in name}


def test_workers_are_summed(tmp_path, monkeypatch):
    monkeypatch.setenv(metrics.FOLDER, str(tmp_path))
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    registry = prometheus.CollectorRegistry()
    registry.register(metrics._Collector(tmp_path))
    assert samples(registry)["zoprune:images_total"] == 0
    add_in_a_worker()
    add_in_a_worker()
    here = metrics.Counters()
    here.add(images=1, seconds=0.25)
    here.add(seconds=0.5)
    (tmp_path / "other").write_text("not a counter")
    assert samples(registry) == {
        "zoprune:images_total": 5,
        "zoprune:visual_tokens_in_total": 64,
        "zoprune:visual_tokens_kept_total": 10,
        "zoprune:scoring_seconds_total": 0.75,
    }


def test_prometheus_own_multiprocess_mode(tmp_path):
    from prometheus_client import multiprocess

    add_in_a_worker(PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    add_in_a_worker(PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    registry = prometheus.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(tmp_path))
    found = samples(registry)
    assert found["zoprune:images_total"] == 4 and found["zoprune:visual_tokens_kept_total"] == 10


def test_without_a_folder_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setenv(metrics.FOLDER, str(tmp_path / "gone"))
    counters = metrics.Counters()
    counters.add(images=1)
    assert counters.values["images"] == 1 and not list(tmp_path.iterdir())
