"""What ``make gpu-report`` makes of its parts' results: counts, tables, adopted files."""

from __future__ import annotations

import json

from benchmarks import speed
from benchmarks.gpu import report, runner, summary
from tests.cuda.test_gpu_report import ABOUT, MEASURED, ROW, WRITES, python, run


def test_tests_are_counted_also_where_they_were_ended():
    alone = "tests/a.py::test_one[x y] PASSED [ 50%]\ntests/a.py::test_two FAILED [100%]\n"
    with_workers = (
        "[gw1] [ 33%] PASSED tests/a.py::test_one[x y] \n[gw0] [ 66%] FAILED tests/a.py::test_two "
        "\ntests/a.py::test_three \n"
    )
    for text in (alone, with_workers):
        found = runner.tests_in(text)["tests"]
        assert found == {"passed": 1, "skipped": 0, "failed": ["tests/a.py::test_two"]}
    assert runner.tests_in("nothing") == {}


def test_the_table_and_the_readme_show_what_was_measured_and_what_not():
    refused = {**ROW, "dtype": "fp16", "refused": "selection: error 1.0e+00"}
    part = {"status": "ok", "seconds": 1.0, "output": "", "rows": [MEASURED, refused]}
    part |= {"machine": ABOUT, "tests": {"passed": 3, "skipped": 0, "failed": ["t::x"]}}
    found = json.loads(json.dumps(report.merge({}, "a", part, "abc")))
    found["targets"] = report.verdicts(found["rows"])
    text = summary.table(found)
    assert "20.0           50.0     70.0        2  loop 30" in text
    assert "3 tests passed, 1 failed t::x" in text
    assert "REFUSED selection" in text
    assert "select 64 of 576, per pick, bf16" in text and "0.312 us  yes" in text
    assert text.count("not measured") == 9
    document = speed.document([found])
    assert "30x, 20 µs" in document and "| 50 µs |" in document
    assert "GPU: not measured yet." in speed.document([])


def test_tables_tell_a_ratio_of_eager_calls():
    closed = {"op": "score_and_select", "variant": "closed form, k = 64"}
    row = MEASURED | closed | {"against": {"paper": {"ratio": 30.0, "eager": True}}}
    part = {"status": "ok", "seconds": 1.0, "output": "", "rows": [row], "machine": ABOUT}
    found = json.loads(json.dumps(report.merge({}, "a", part, "abc")))
    found["targets"] = report.verdicts(found["rows"])
    text = summary.table(found)
    assert "paper 30 (eager)" in text and "30 x  NO  both eager" in text
    document = speed.document([found])
    assert "30x, 70 µs†" in document and "†: the other cannot be captured" in document


def test_adopted_results_go_by_the_cards_name(tmp_path, monkeypatch, capsys):
    from benchmarks import machine

    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    assert report.main(["--adopt", str(tmp_path)]) == 1
    assert "expected measured rows of one card, got none" in capsys.readouterr().err
    run(tmp_path / "out", "--only", "works")
    assert report.main(["--adopt", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "nvidia-x.json").read_text())
    assert found["rows"]
    assert "output" in json.loads((tmp_path / "out/report.json").read_text())["parts"]["works"]
    assert "output" not in found["parts"]["works"]  # it names places of one machine


def test_adopted_results_of_one_card_are_joined(tmp_path, monkeypatch, capsys):
    """A later folder's part wins; what it found of a part that failed there, as well."""
    from benchmarks import machine

    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    one, two = tmp_path / "1", tmp_path / "2"
    first = WRITES.replace('"rows": [', f'"rows": [{ROW | {"op": "other"}}, ')
    run(one, of={"a": python(first), "b": python(WRITES)})
    again = WRITES.replace("2e-05", "3e-05").replace("2026-01-01", "2026-01-02")
    later = {"a": python(again + "raise SystemExit(1)"), "c": python(again)}
    run(two, "--commit", "def", of=later)
    assert report.main(["--adopt", str(one), str(two)]) == 0
    found = json.loads((tmp_path / "nvidia-x.json").read_text())
    assert {name: part["commit"] for name, part in found["parts"].items()} == {
        "a": "def",
        "b": "abc",
        "c": "def",
    }
    rows = [(row["part"], row["op"], row.get("seconds")) for row in found["rows"]]
    assert sorted(rows, key=str) == [
        ("a", "other", None),
        ("a", "select", 3e-05),
        ("b", "select", 2e-05),
        ("c", "select", 3e-05),
    ]
    assert found["machine"]["date"] == "2026-01-02" and len(found["targets"]) == 10
    run(two, of={"d": python(WRITES.replace("NVIDIA X", "NVIDIA Y"))})
    assert report.main(["--adopt", str(one), str(two)]) == 1
    assert (
        "expected measured rows of one card, got NVIDIA X and NVIDIA Y" in capsys.readouterr().err
    )
