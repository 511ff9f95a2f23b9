"""The machinery of ``make gpu-report``, with parts that need no GPU."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import readme
from benchmarks.gpu import cases as gpu_cases
from benchmarks.gpu import report as gpu_report
from benchmarks.gpu.report import Part
from benchmarks.shapes import TINY


def python(code: str, limit: int = 3600, needs_gpu: bool = False) -> Part:
    return Part([sys.executable, "-c", code], limit, needs_gpu)


ROW = {"op": "select", "variant": "k = 64", "shape": "LLaVA-1.5", "dtype": "bf16"}
MEASURED = ROW | {"seconds": 2e-5, "kernels": ["a", "b"], "against": {"loop": {"ratio": 30.0}}}
WRITES = f"""
import json, os
with open(os.environ["ZOPRUNE_PART_OUTPUT"], "w") as file:
    json.dump({{"rows": [{MEASURED}], "ceilings": {{"copy": "4 TB/s"}}}}, file)
"""
PARTS = {
    "breaks": python("raise SystemExit('broken')"),
    "hangs": python("import time; print('started', flush=True); time.sleep(60)", limit=2),
    "missing": Part(["no-such-program"], 5, needs_gpu=False),
    "measures, then breaks": python(WRITES + "raise SystemExit(1)"),
    "works": python(WRITES),
    "gpu": python("print('ran')", needs_gpu=True),
}
ABOUT = {"device": "cuda", "name": "NVIDIA X", "torch": "2", "date": "2026-01-01", "commit": "abc"}


def run(monkeypatch, *names: str, budget: float = 36_000, has_gpu: bool = False):
    monkeypatch.setattr(gpu_report, "PARTS", PARTS)
    return gpu_report.run_parts(list(names), budget, has_gpu, lambda text: None)


def test_no_failure_hides_another_part(monkeypatch):
    parts = run(monkeypatch, *PARTS)
    status = {name: part["status"] for name, part in parts.items()}
    assert status == {
        "breaks": "FAILED",
        "hangs": "FAILED: over 2 s",
        "missing": "FAILED",
        "measures, then breaks": "FAILED",
        "works": "ok",
        "gpu": "skipped: no GPU",
    }
    assert "broken" in parts["breaks"]["output"]
    assert parts["measures, then breaks"]["rows"] == [MEASURED]


def test_parts_beyond_the_budget_say_so(monkeypatch):
    parts = run(monkeypatch, "works", budget=1)
    assert parts["works"]["status"] == "FAILED: no time left"


def test_a_later_run_of_one_part_keeps_the_others(monkeypatch):
    both = gpu_report.merge({}, run(monkeypatch, "works", "measures, then breaks"), ABOUT)
    again = gpu_report.merge(both, run(monkeypatch, "breaks", "works"), ABOUT | {"commit": "def"})
    assert [row["part"] for row in again["rows"]] == ["measures, then breaks", "works"]
    assert again["parts"]["measures, then breaks"]["commit"] == "abc"
    assert again["parts"]["works"]["commit"] == "def"
    assert again["ceilings"] == {"copy": "4 TB/s"}


def test_the_table_and_the_readme_show_what_was_measured_and_what_not(monkeypatch):
    refused = {**ROW, "dtype": "fp16", "refused": "selection: error 1.0e+00"}
    parts = {"a": {"status": "ok", "seconds": 1.0, "output": "", "rows": [MEASURED, refused]}}
    report = json.loads(json.dumps(gpu_report.merge({}, parts, ABOUT)))
    text = gpu_report.table(report)
    assert "20.0        2  loop 30" in text
    assert "REFUSED selection" in text
    assert "select 64 of 576, per pick, bf16" in text and "0.312 us  yes" in text
    assert text.count("not measured") == 9
    assert "30x, 20 µs" in readme.generate([report])


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    output = tmp_path / "gpu.json"
    assert gpu_report.main(["--only", "ceilings", "--output", str(output)]) == 0
    assert "skipped: no GPU" in capsys.readouterr().out
    assert not output.exists()


@pytest.mark.parametrize("group", gpu_cases.GROUPS)
def test_every_case_and_baseline_runs_and_is_right(group):
    first = gpu_cases.make_set(TINY, torch.bfloat16, "cpu")
    other = first.copy(gpu_cases.GROUPS[group].reads)
    assert other.keys is first.keys or "keys" in gpu_cases.GROUPS[group].reads
    cases, plain = gpu_cases.GROUPS[group].build(TINY)
    for case in cases:
        checks = case.check(case.call(other), other)
        assert checks and all(check.passed for check in checks), [case.op, *map(str, checks)]
        assert all(name in plain for terms in case.against.values() for name, _ in terms)
    for baseline in plain.values():
        baseline(other)
