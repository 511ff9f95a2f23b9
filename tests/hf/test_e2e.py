"""The end-to-end benchmark on tiny models: an independent oracle, and what its tables say."""

import dataclasses
import json

import pytest
import torch

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune

from benchmarks.e2e import models as e2e_models
from benchmarks.e2e import report as e2e
from benchmarks.e2e import table as e2e_table
from benchmarks.e2e.sample import generate
from benchmarks.e2e.variants import VARIANTS, PaperSelector, twin, variants
from benchmarks.gpu import report as gpu_report
from benchmarks.gpu import summary

pytestmark = pytest.mark.usefixtures("one_thread")
VISION = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
SMALL = {
    "vision": dict(**VISION, image_size=28, patch_size=7),
    "text": dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_attention_heads=4),
}
LLAVA = dataclasses.replace(e2e_models.LLAVA, tokens=16, keep=(3, 7), **SMALL)
LLAVA_NEXT = dataclasses.replace(
    e2e_models.LLAVA_NEXT, tokens=80, newlines=8, keep=(10,), pinpoints=[[56, 56]], **SMALL
)
SETTING = e2e.Setting("cpu", "fp32", 2, 4, 2, 0, "5")
ABOUT = {"name": "X", "threads": 2, "torch": "2", "date": "2026-01-01", "device": "cpu"}


@torch.no_grad()
@pytest.mark.parametrize("architecture", [LLAVA, LLAVA_NEXT], ids=lambda a: a.name)
def test_ours_gives_the_oracles_logits(architecture, capsys):
    rows = e2e.run([e2e.Point(architecture, 2, architecture.keep)], SETTING)
    assert [row["keep"] for row in rows] == list(architecture.keep)
    for row in rows:
        assert row["difference"] < 1e-5 and "refused" not in row and row["rounds"] >= 2
        for measured in ("first_token_seconds", "tokens_per_second", "peak_mib"):
            assert list(row[measured]) == list(VARIANTS)
        assert row["over_oracle"]["lowest"] <= row["over_oracle"]["highest"]
    assert capsys.readouterr().out.count(f"{architecture.name}, 2, ") == len(rows)


@torch.no_grad()
def test_every_variant_runs_on_the_prompt_it_should():
    model = e2e_models.build(LLAVA, 2, torch.float32, "cpu")
    pruned = zoprune.prune(twin(model), 1.0)
    inputs = e2e_models.inputs_of(LLAVA, model, 2)
    paper = PaperSelector(4)
    runs = variants(model, pruned, inputs, 5, paper)
    length = {name: run(lambda m, i: m(**i).logits.shape[1]) for name, run in runs.items()}
    text = e2e_models.TEXT_TOKENS
    assert length == {"unpruned": 16 + text} | dict.fromkeys(VARIANTS[1:], 5 + text)
    assert paper.missing > 0
    sample = runs["ours"](generate)
    assert 0 < sample.first < sample.whole and sample.logits.shape == (2, 99)


@torch.no_grad()
def test_on_a_gpu_most_rounds_end_with_the_first_token(monkeypatch):
    """Each variant answers as a whole once before; the slow ones are measured once."""
    asked: dict[str, list[int]] = {name: [] for name in VARIANTS}
    real, select = e2e.generate, e2e.variants

    def variants_(*arguments):
        return {
            name: lambda use, name=name, run=run: asked[name].append(use) or run(use)
            for name, run in select(*arguments).items()
        }

    monkeypatch.setattr(e2e, "variants", variants_)
    setting = dataclasses.replace(SETTING, rounds=9, warm_up=True, whole_rounds=2, limit=60)
    (row,) = e2e.run([e2e.Point(LLAVA, 1, (3,))], setting)
    first = e2e.first_token
    assert asked["ours"] == asked["oracle"] == [real, real, real, *[first] * 7]
    assert asked["unpruned"] == asked["paper"] == [real, real]
    assert row["rounds"] == 9 and row["tokens_per_second"]["ours"] > 0
    # No round begins after the limit; the first is whole whatever it takes.
    asked["ours"].clear()
    (row,) = e2e.run([e2e.Point(LLAVA, 1, (3,))], dataclasses.replace(setting, limit=0))
    assert asked["ours"] == [real, real] and row["rounds"] == 1


@torch.no_grad()
def test_the_directions_left_out_count(monkeypatch):
    def select(self, *arguments):
        self.missing += 100
        return torch.arange(3), torch.zeros(16)

    monkeypatch.setattr(PaperSelector, "__call__", select)
    (row,) = e2e.run([e2e.Point(LLAVA, 1, (3,))], SETTING)
    assert 100 < row["first_token_seconds"]["paper"] < 110
    assert max(row["first_token_seconds"][name] for name in VARIANTS[:3]) < 50


@torch.no_grad()
def test_other_tokens_than_the_oracles_are_refused(monkeypatch):
    select = e2e.variants

    def wrong(*arguments):
        runs = select(*arguments)
        return runs | {"ours": runs["unpruned"]}

    monkeypatch.setattr(e2e, "variants", wrong)
    (row,) = e2e.run([e2e.Point(LLAVA, 1, (3,))], SETTING)
    assert "differ by" in row["refused"] and "over_oracle" not in row
    assert "REFUSED" in e2e_table.line(row)
    assert "refused" in e2e_table.markdown(ABOUT, dataclasses.asdict(SETTING), [row])
    assert ": NO" in e2e_table.verdict(dataclasses.asdict(SETTING), [row])


def test_tables_show_what_was_measured():
    row = {"model": "LLaVA-1.5", "batch": 1, "tokens": 576, "keep": 64}
    row["over_oracle"] = {"ratio": 1.021, "lowest": 1.0, "highest": 1.04}
    row["first_token_seconds"] = dict(unpruned=3.0, oracle=0.98, ours=1.0, paper=12.0)
    row["tokens_per_second"] = dict(unpruned=4.0, oracle=8.0, ours=8.0, paper=1.0)
    row["peak_mib"] = dict(unpruned=100.0, oracle=20.0, ours=30.0, paper=40.0)
    setting = dataclasses.asdict(SETTING)
    cpu = {"machine": ABOUT, "setting": setting, "rows": [row]}
    text = (
        "| LLaVA-1.5 | 1 | 64 of 576 | +2.1% (+0% to +4%) | 3x | 12x | 2x | 100, 20, 30, 40 MiB |"
    )
    assert text in e2e_table.document([cpu], [])
    less = cpu | {"rows": [{n: value for n, value in row.items() if n != "tokens_per_second"}]}
    assert text.replace("| 2x |", "| - |") in e2e_table.document([less], [])
    assert e2e_table.verdict(setting, [row]).endswith("yes, at most +2.1%")
    measured = {"setting": setting | {"device": "cuda"}, "rows": [row]}
    part = {"status": "ok", "seconds": 1.0, "output": "", "e2e": measured, "machine": ABOUT}
    report = gpu_report.merge({}, "e2e", part, "abc")
    assert "+2.1% (+0% to +4%), 1000.0 ms" in e2e_table.document([], [report])
    assert "first token within 3% of the oracle's: yes" in summary.table(report)
    assert e2e_table.document([], [{"machine": ABOUT}]) == "Not measured yet."


def test_a_shorter_run_does_not_replace_a_longer_one(tmp_path):
    file = tmp_path / "e2e-x.json"
    assert e2e.replaces([{}], file)
    file.write_text(json.dumps({"rows": [{}, {}]}))
    assert e2e.replaces([{}, {}], file)
    assert not e2e.replaces([{}], file)
