"""What ``make gpu-report`` measures, on the CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import cases, timing
from benchmarks.shapes import TINY, with_copies


@pytest.fixture
def on_cpu(monkeypatch):
    """A device that is the CPU: its graphs are calls."""
    monkeypatch.setattr(timing, "copies_beyond_cache", lambda size: 2)

    def seconds_per_call(calls):
        for call in calls:
            call()
        return [1e-5, 2e-5, 3e-5]

    monkeypatch.setattr(timing, "seconds_per_call", seconds_per_call)
    monkeypatch.setattr(timing, "eager", lambda call: {"host": 1e-5, "whole": 2e-5})
    monkeypatch.setattr(timing, "kernel_names", lambda call: ["a"])
    for part in cases.PARTS.values():
        monkeypatch.setitem(part.__dict__, "shapes", (TINY,))


@pytest.mark.parametrize("part", cases.PARTS)
def test_every_case_is_measured_and_right(part, on_cpu):
    rows = list(cases.measure(part, "bf16", "cpu"))
    for row in rows:
        assert "refused" not in row and "not_measured" not in row, row
        assert row["seconds"] == 2e-5 and row["checks"] and row["eager"]["host"] == 1e-5
        assert all(against["ratio"] > 0 for against in row["against"].values())
    assert len({(row["op"], row["variant"]) for row in rows}) == len(rows) >= 2


def test_a_failing_profiler_or_baseline_spoils_no_row(on_cpu, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUPTI is busy")

    monkeypatch.setattr(timing, "kernel_names", fail)
    monkeypatch.setattr(timing, "eager", fail)
    row = next(cases.measure("selection", "bf16", "cpu"))
    assert row["seconds"] == 2e-5 and row["against"]["loop"]["ratio"] == 1
    assert row["not_measured"] == dict.fromkeys(["eager", "kernels"], "RuntimeError: CUPTI is busy")
    monkeypatch.setattr(cases.selection, "plain", lambda shape: {})
    row = next(cases.measure("selection", "bf16", "cpu"))
    assert row["seconds"] == 2e-5 and set(row["not_measured"]) >= {"loop", "better loop"}


def test_a_shape_that_cannot_be_made_hides_no_other(on_cpu, monkeypatch):
    build = cases.PARTS["scoring"].build

    def out_of_memory(shape, dtype, device):
        if len(made) == 0:
            made.append(shape)
            raise torch.OutOfMemoryError("no memory")
        return build(shape, dtype, device)

    made: list = []
    monkeypatch.setitem(cases.PARTS["scoring"].__dict__, "build", out_of_memory)
    monkeypatch.setitem(cases.PARTS["scoring"].__dict__, "shapes", (TINY, TINY))
    first, *others = cases.measure("scoring", "fp16", "cpu")
    assert first["refused"] == "OutOfMemoryError: no memory"
    assert others and all("seconds" in row for row in others)


def test_copies_have_tensors_of_their_own():
    group = cases.selection_group(TINY, "bf16", "cpu")
    other = with_copies(group.inputs, ("scores", "keys"))
    assert other.keys is not group.inputs.keys and torch.equal(other.keys, group.inputs.keys)
    assert other.x is group.inputs.x
