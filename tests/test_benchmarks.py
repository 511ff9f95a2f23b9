"""The measurements' machinery: baselines that are right, refusal of results that are not."""

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import ImageColor

from benchmarks import (
    baselines,
    readme,
    table,
    targets,
    timing,
    verify,
)
from benchmarks.cpu import cases, memory, plot, report
from benchmarks.shapes import DTYPES, STEP, TINY, make_inputs
from zoprune_kernels import reference


def silent(text):
    pass


@pytest.fixture(scope="module")
def measured():
    with torch.inference_mode():
        return report.run([TINY], list(DTYPES), set(cases.OPS), quick=True, progress=silent)


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


def test_fold_baseline_is_the_metric():
    w1, w2 = torch.randn(40, 16), torch.randn(24, 40)
    torch.testing.assert_close(baselines.fold(w1, w2), reference.fold_metric(w1, w2))


@pytest.mark.parametrize("name", baselines.GEMMS)
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_bare_gemms_multiply(name, dtype):
    x, weight = torch.randn(9, 16).to(dtype), torch.randn(5, 16).to(dtype)
    torch.testing.assert_close(baselines.GEMMS[name](x, weight), x @ weight.T)


def test_regret_accepts_a_greedy_set_in_any_order():
    scores, keys = torch.randn(63), torch.randn(63, 24)
    picks = reference.select(scores, keys, 9)
    assert verify.selection(picks.flip(0), scores, keys).passed


def test_regret_refuses_a_worse_set():
    scores, keys = torch.randn(63), torch.randn(63, 24)
    picks = reference.select(scores, keys, 9, sort=False)
    others = [token for token in range(63) if token not in picks.tolist()]
    assert not verify.selection(
        torch.cat([picks[:8], torch.tensor(others[:1])]), scores, keys
    ).passed
    assert verify.selection_regret(picks[[0, 1, 1]], scores, keys) == math.inf


def test_run_measures_every_operator_and_is_valid_json(measured):
    content = json.loads(json.dumps(measured))
    assert {row["op"] for row in content["rows"]} == set(cases.OPS)
    for row in content["rows"]:
        assert "refused" not in row, row
        assert row["seconds"] > 0 and row["checks"]
        assert all(value["ratio"] > 0 for value in row["against"].values())
    assert all(verdict["met"] is None for verdict in content["targets"])  # tiny is not a target
    assert "REFUSED" not in table.render(content)


def broken(case):
    """The same case, whose operator returns scores that are 1 % off."""
    return replace(case, run=lambda: case.run() * 1.01)


def test_wrong_scores_are_refused():
    (group,) = cases.groups(TINY, "fp32", cases.SCORING, quick=True)
    good, bad = group.cases[0], broken(group.cases[1])
    rows = report.measure_group(replace(group, cases=[good, bad]), 1, silent)
    assert "against" in rows[0]
    assert "refused" in rows[1] and "against" not in rows[1] and "seconds" not in rows[1]
    assert "REFUSED scores of 16 tokens: error 1.0e-02" in "\n".join(table.ratios(rows, 64))


def test_an_operator_that_raises_does_not_hide_the_others():
    def fail():
        raise RuntimeError("zoprune::fold_metric: no")

    (group,) = cases.groups(TINY, "fp32", cases.SETUP)
    good, bad = group.cases[0], replace(group.cases[1], run=fail)
    rows = report.measure_group(replace(group, cases=[bad, good]), 1, silent)
    assert rows[0]["refused"] == "zoprune::fold_metric: no"
    assert "against" in rows[1]


def test_wrong_picks_are_refused():
    (group,) = cases.groups(TINY, "bf16", cases.SELECTION)
    bad = replace(group.cases[0], run=lambda: torch.arange(TINY.keep[0]))
    rows = report.measure_group(replace(group, cases=[bad]), 1, silent)
    assert "refused" in rows[0] and "against" not in rows[0]


def test_memory_counts_what_a_call_holds():
    def call():
        held = torch.ones(64 << 20, dtype=torch.uint8)  # 64 MiB
        return held[:1].clone()

    assert 63 <= memory.peak_extra_mib(call) <= 72


def test_times_are_ratios_of_medians():
    slow, fast = timing.Times([2.0, 3.0, 10.0]), timing.Times([1.0, 1.0, 2.0])
    assert slow.ratio_to(fast) == (3.0, 2.0, 5.0)
    assert (slow + fast.scaled(2)).seconds == [4.0, 5.0, 14.0]


@pytest.mark.parametrize(("unit", "measured", "met"), [("x", 99, False), ("MiB", 99, True)])
def test_targets_compare_in_the_right_direction(unit, measured, met):
    verdict = targets.Target("t", 100, unit, lambda rows: measured).verdict([])
    assert verdict["met"] is met


def test_readme_table_shows_what_was_measured(measured):
    row = {"op": "select", "variant": "k = 64", "shape": "LLaVA-1.5", "dtype": "fp32"}
    row |= {"seconds": 1e-3, "against": {"loop": {"ratio": 12.34}}}
    content = measured | {"rows": [row], "memory": []}
    text = readme.generate([content])
    assert "| `select`, k = 64 | LLaVA-1.5 | the authors' loop | 12.3x |" in text
    assert "GPU: not measured yet." in text


def test_chart_has_a_bar_for_every_ratio():
    lines = [line for group in plot.CHART.values() for line in group]
    rows = [
        {"op": line.op, "variant": line.variant, "shape": line.shape.name, "dtype": dtype}
        | {"against": {line.against: {"ratio": 40.0}}}
        for line in lines
        for dtype in DTYPES
    ]
    about = {"name": "cpu", "threads": 2, "torch": "2.13", "date": "2026-01-01"}
    picture = plot.draw({"machine": about, "rows": rows}).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(1 << 16)}
    assert {ImageColor.getrgb(colour) for colour in plot.COLOURS.values()} <= colours


def test_readme_is_replaced_between_its_markers_only():
    before = f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n"
    assert readme.replace(before, "new") == f"a\n{readme.BEGIN}\nnew\n{readme.END}\nb\n"
    with pytest.raises(SystemExit, match="benchmark:begin"):
        readme.replace("no markers", "new")
