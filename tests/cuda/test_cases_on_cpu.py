"""What ``make gpu-report`` measures, on the CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import baselines
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
    monkeypatch.setattr(timing, "eager", lambda calls: {"host": 1e-5, "whole": 4e-5})
    monkeypatch.setattr(timing, "can_be_captured", lambda call: True)
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


def test_what_cannot_be_captured_is_compared_eagerly(on_cpu, monkeypatch):
    """All terms of a sum, if one cannot; the others stay graph against graph."""
    loop, captured = [], []

    def can_be_captured(call):
        before = len(loop)
        call()
        captured.append(len(loop) == before)
        return captured[-1]

    real = baselines.authors_selection
    monkeypatch.setattr(
        baselines, "authors_selection", lambda *given: loop.append(0) or real(*given)
    )
    monkeypatch.setattr(timing, "can_be_captured", can_be_captured)
    monkeypatch.setattr(
        timing, "eager", lambda calls: [calls[0]()] and {"host": 1e-5, "whole": 8e-5}
    )
    row = next(cases.measure("selection", "bf16", "cpu"))
    assert row["against"]["loop"] | {"of": 0} == {
        "ratio": 1.0,
        "seconds": 8e-5,
        "of": 0,
        "eager": True,
    }
    assert "eager" not in row["against"]["better loop"]
    assert row["against"]["better loop"]["seconds"] == 2e-5
    measured = cases.measure("scoring", "bf16", "cpu")
    rows = {row["op"]: row for row in measured if "chained" not in row["variant"]}
    paper = rows["project_and_select"]["against"]["paper"]
    assert paper["eager"] and paper["seconds"] == sum(factor for _, factor in paper["of"]) * 8e-5
    assert "eager" not in rows["project_and_select"]["against"]["projector"]
    asked = len(captured)
    assert asked < sum(len(case["against"]) for case in rows.values())  # each once only


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
