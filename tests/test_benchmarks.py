"""The measurements' machinery: baselines that are right, refusal of results that are not."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import (
    baselines,
    charts,
    machine,
    measure,
    readme,
    selection,
    speed,
    table,
    targets,
    timing,
)
from benchmarks.cpu import cases, memory, report
from benchmarks.shapes import DTYPES, STEP, TINY, make_inputs
from zoprune_kernels import reference


def silent(text):
    pass


@pytest.fixture(scope="module")
def measured():
    with torch.inference_mode():
        return report.run([TINY], list(DTYPES), set(machine.OPS), quick=True, progress=silent)


@pytest.mark.parametrize("score", baselines.PAPER_FORMS.values())
def test_paper_baseline_is_the_papers_score(score):
    inputs = make_inputs(TINY, torch.float32)
    wide = [tensor.double() for tensor in (inputs.x, *inputs.layers, inputs.directions)]
    w1, b1, w2 = wide[1:4]
    want = reference.paper_sensitivity(wide[0], w1, b1, w2, wide[-1], step=STEP)
    torch.testing.assert_close(score(*wide, STEP), want, rtol=1e-9, atol=0)
    narrow = score(inputs.x, *inputs.layers, inputs.directions, STEP)
    torch.testing.assert_close(narrow.double(), want, rtol=1e-3, atol=0)


@pytest.mark.parametrize("loop", [baselines.authors_selection, baselines.running_minimum_selection])
@pytest.mark.parametrize("k", [1, 7, 63])
def test_selection_loops_are_the_reference_greedy(loop, k):
    scores, keys = torch.randn(63).double(), torch.randn(63, 24).double()
    want = reference.select(scores, keys, k, sort=False)
    assert loop(scores, keys, k).tolist() == want.tolist()


def test_crops_are_pruned_each_by_itself(monkeypatch):
    inputs = make_inputs(replace(TINY, tokens=60), torch.float32)
    monkeypatch.setitem(selection.CROPS, inputs.shape, 5)
    each = torch.stack(selection.loop_over_crops(inputs, 15))
    scores, keys = selection.in_crops(inputs)
    assert each.tolist() == reference.select(scores, keys, 3, sort=False).tolist()
    crop = next(case for case in selection.cases(inputs.shape) if "crops" in case.variant)
    assert all(check.passed for check in crop.check(inputs, crop.run(inputs)))
    assert not all(check.passed for check in crop.check(inputs, crop.run(inputs).flip(0)))


def test_fold_baseline_is_the_metric():
    w1, w2 = torch.randn(40, 16), torch.randn(24, 40)
    torch.testing.assert_close(baselines.fold(w1, w2), reference.fold_metric(w1, w2))


@pytest.mark.parametrize("name", baselines.GEMMS)
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_bare_gemms_multiply(name, dtype):
    x, weight = torch.randn(9, 16).to(dtype), torch.randn(5, 16).to(dtype)
    torch.testing.assert_close(baselines.GEMMS[name](x, weight), x @ weight.T)


def test_run_measures_every_operator_and_is_valid_json(measured):
    content = json.loads(json.dumps(measured))
    assert {row["op"] for row in content["rows"]} == set(machine.OPS)
    for row in content["rows"]:
        assert "refused" not in row, row
        assert row["seconds"] > 0 and row["checks"]
        assert all(value["ratio"] > 0 for value in row["against"].values())
    assert all(verdict["met"] is None for verdict in content["targets"])  # tiny is not a target
    assert "REFUSED" not in table.render(content)


def broken(case):
    """The same case, whose operator returns scores that are 1 % off."""
    return replace(case, run=lambda x: case.run(x) * 1.01)


def test_wrong_scores_are_refused():
    (group,) = cases.groups(TINY, "fp32", cases.SCORING, quick=True)
    good, bad = group.cases[0], broken(group.cases[1])
    rows = measure.measure_group(replace(group, cases=[good, bad]), 1, silent)
    assert "against" in rows[0]
    assert "refused" in rows[1] and "against" not in rows[1] and "seconds" not in rows[1]
    assert "REFUSED scores of 16 tokens: error 1.0e-02" in "\n".join(table.ratios(rows, 64))


def test_an_operator_that_raises_does_not_hide_the_others():
    def fail(x):
        raise RuntimeError("zoprune::fold_metric: no")

    (group,) = cases.groups(TINY, "fp32", cases.SETUP)
    good, bad = group.cases[0], replace(group.cases[1], run=fail)
    rows = measure.measure_group(replace(group, cases=[bad, good]), 1, silent)
    assert rows[0]["refused"] == "RuntimeError: zoprune::fold_metric: no"
    assert "against" in rows[1]


def test_wrong_picks_are_refused():
    (group,) = cases.groups(TINY, "bf16", cases.SELECTION)
    bad = replace(group.cases[0], run=lambda x: torch.arange(TINY.keep[0]))
    rows = measure.measure_group(replace(group, cases=[bad]), 1, silent)
    assert "refused" in rows[0] and "against" not in rows[0]


def test_memory_counts_what_a_call_holds():
    def call():
        held = torch.ones(64 << 20, dtype=torch.uint8)  # 64 MiB
        return held[:1].clone()

    assert 63 <= memory.peak_extra_mib(call) <= 72


def test_ratios_are_medians_of_the_rounds_with_their_spread():
    slow, fast = timing.Times([2.0, 3.0, 10.0]), timing.Times([1.0, 1.0, 2.0])
    ratio = slow.ratio_to(fast)  # 2, 3, 5
    assert ratio == {"ratio": 3.0, "lowest": 2.0, "highest": 5.0, "spread": 1.0}
    assert (slow + fast.scaled(2)).seconds == [4.0, 5.0, 14.0]
    assert fast.ratio_to(fast)["spread"] == 0


def test_a_noisy_ratio_is_marked_in_every_table():
    row = {"op": "select", "variant": "k = 64", "shape": "LLaVA-1.5", "dtype": "fp32"}
    ratio = {"ratio": 12.34, "lowest": 5.0, "highest": 20.0}
    quiet = row | {"seconds": 1e-3, "against": {"loop": ratio | {"spread": 0.1}}}
    noisy = row | {"seconds": 1e-3, "against": {"loop": ratio | {"spread": 0.3}}}
    assert "NOISY" not in "\n".join(table.ratios([quiet], 64))
    assert "12.3 (5 - 20, NOISY)" in "\n".join(table.ratios([noisy], 64))
    assert "NOISY: 1 ratios" in "\n".join(table.ratios([noisy], 64))
    assert table.ratio(quiet["against"]["loop"]) == "12.3x"
    assert table.ratio(noisy["against"]["loop"]) == "12.3x (± 15%)"


@pytest.mark.parametrize(("at_most", "measured", "met"), [(False, 99, False), (True, 99, True)])
def test_targets_compare_in_the_right_direction(at_most, measured, met):
    verdict = targets.Target("t", 100, "x", lambda rows: measured, at_most=at_most).verdict([])
    assert verdict["met"] is met


def test_readme_table_shows_what_was_measured(measured):
    row = {"op": "select", "variant": "k = 64", "shape": "LLaVA-1.5", "dtype": "fp32"}
    row |= {"seconds": 1e-3, "against": {"loop": {"ratio": 12.34}}}
    scores = row | {"op": "sensitivity", "variant": "m = 64, h = 0.01", "dtype": "bf16"}
    content = measured | {"rows": [row, scores | {"against": {"GEMM": {"ratio": 0.99}}}]}
    text = speed.document([content | {"memory": []}])
    assert "| `select`, k = 64 | LLaVA-1.5 | the authors' loop | 12.3x | - |" in text
    assert "-: not measured yet." in text
    assert "k = 640" not in text  # of which nothing was measured
    assert "GPU: not measured yet." in text


def test_readme_shows_processors_side_by_side_and_the_floor(measured):
    row = {"op": "score_and_select", "variant": "closed form, k = 64", "shape": "LLaVA-1.5"}
    row |= {"dtype": "bf16", "against": {"paper": {"ratio": 70.0}, "projector": {"ratio": 0.5}}}
    results = [
        measured | {"rows": [row], "machine": measured["machine"] | {"name": name}}
        for name in ("Zen", "Xeon")
    ]
    text = speed.document(results)
    assert "Zen, bf16 | Zen, over a projector forward (bf16) | Xeon, bf16 |" in text
    line = "| `score_and_select`, closed form, k = 64 | LLaVA-1.5 | the paper's algorithm "
    assert f"{line}| 70x | 2x | 70x | 2x |" in text


def test_the_chart_is_drawn_also_where_a_bar_is_not_measured(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install matplotlib")
    lines = [line for group in charts.SPEED.values() for line in group]
    rows = [
        {"op": line.op, "variant": line.variant, "shape": line.shape.name, "dtype": dtype}
        | {"against": {line.against: {"ratio": 40.0}}}
        for line in lines[1:]
        for dtype in DTYPES
    ]
    about = {"name": "cpu", "threads": 2, "torch": "2.13", "date": "2026-01-01"}
    result = {"machine": about, "rows": rows, "directions": 64}
    charts.speed(result, tmp_path / "speed.png")
    charts.speed(result, tmp_path / "again.png")
    drawn = (tmp_path / "speed.png").read_bytes()
    assert drawn.startswith(b"\x89PNG") and len(drawn) > 10_000
    assert drawn == (tmp_path / "again.png").read_bytes()


def test_readme_is_replaced_between_its_markers_only():
    before = f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n"
    assert readme.replace(before, "new") == f"a\n{readme.BEGIN}\nnew\n{readme.END}\nb\n"
    with pytest.raises(SystemExit, match="benchmark:begin"):
        readme.replace("no markers", "new")
