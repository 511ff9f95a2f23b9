"""The machinery of ``make gpu-report``, with parts that need no GPU."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import git
from benchmarks.gpu import parts, plan, report, runner
from benchmarks.gpu.runner import Part

ROOT = Path(__file__).parents[2]
ROW = {"op": "select", "variant": "k = 64", "shape": "LLaVA-1.5", "dtype": "bf16"}
MEASURED = ROW | {"seconds": 2e-5, "kernels": ["a", "b"], "against": {"loop": {"ratio": 30.0}}}
MEASURED |= {"eager": {"host": 5e-5, "whole": 7e-5}}
ABOUT = {"device": "cuda", "name": "NVIDIA X", "torch": "2", "date": "2026-01-01", "commit": "abc"}
WRITES = f"""
from benchmarks.gpu.runner import write_part
write_part({{"rows": [{MEASURED}], "ceilings": {{"copy": "4 TB/s"}}, "machine": {ABOUT}}})
"""


def python(code: str, limit: float = 20, **options) -> Part:
    return Part([sys.executable, "-c", code], limit, **options)


PARTS = {
    "breaks": python("raise SystemExit('broken')"),
    "hangs": Part(["sh", "-c", "echo started; exec sleep 600"], 2),
    "missing": Part(["no-such-program"], 5),
    "measures, then breaks": python(WRITES + "raise SystemExit(3)"),
    "works": python(WRITES),
    "needs more": python("", package="no_such_package"),
}


def run(folder: Path, *arguments: str, of: dict[str, Part] = PARTS) -> dict:
    """The report after a run of some parts, all of them by default."""
    only = [] if "--only" in arguments or "--second" in arguments else ["--only", *of]
    report.main(["--out", str(folder), "--commit", "abc", *arguments, *only], of)
    return json.loads((folder / "report.json").read_text())


def test_no_failure_hides_another_part(tmp_path):
    found = run(tmp_path)
    status = {name: part["status"] for name, part in found["parts"].items()}
    assert status == {
        "breaks": "FAILED: exit 1",
        "hangs": "FAILED: over 2 s",
        "missing": "FAILED",
        "measures, then breaks": "FAILED: exit 3",
        "works": "ok",
        "needs more": "skipped: no_such_package is not installed",
    }
    assert "broken" in found["parts"]["breaks"]["output"]
    assert "started" in (tmp_path / "report.log").read_text()
    assert {row["part"] for row in found["rows"]} == {"measures, then breaks", "works"}
    assert found["ceilings"] == {"copy": "4 TB/s"} and found["machine"] == ABOUT
    assert len(list(tmp_path.iterdir())) <= 8


def test_parts_beyond_the_budget_and_after_a_vital_one_say_so(tmp_path):
    found = run(tmp_path, "--seconds", "1", "--only", "works")
    assert found["parts"]["works"]["status"] == "skipped: no time left"
    vital = {"library": python("raise SystemExit(1)", vital=True), "works": PARTS["works"]}
    found = run(tmp_path, of=vital)
    assert found["parts"]["works"]["status"] == "skipped: library failed"


def test_a_later_run_of_one_part_keeps_the_others(tmp_path):
    run(tmp_path, "--only", "works", "measures, then breaks")
    found = run(tmp_path, "--commit", "def", "--only", "breaks", "works")
    assert [row["part"] for row in found["rows"]] == ["measures, then breaks", "works"]
    assert found["parts"]["measures, then breaks"]["commit"] == "abc"
    assert found["parts"]["works"]["commit"] == "def"
    assert found["ceilings"] == {"copy": "4 TB/s"}


def test_a_later_run_that_fails_or_is_skipped_loses_no_row(tmp_path):
    """Rows that a failed run found again are replaced, the others stay."""
    first = WRITES.replace('"rows": [', '"rows": [{"op": "other"}, ').replace('"copy"', '"old"')
    run(tmp_path, of={"a": python(first)})
    found = run(tmp_path, "--seconds", "1", of={"a": python("raise SystemExit(1)")})
    assert found["parts"]["a"]["status"] == "ok" and len(found["rows"]) == 2
    slower = WRITES.replace("2e-05", "3e-05") + "raise SystemExit(1)"
    found = run(tmp_path, of={"a": python(slower)})
    assert found["parts"]["a"]["status"] == "FAILED: exit 1"
    assert [row.get("seconds") for row in found["rows"]] == [None, 3e-05]
    found = run(tmp_path, of={"a": python(WRITES)})
    assert [row["seconds"] for row in found["rows"]] == [2e-05]


def test_the_second_run_mends_what_failed(tmp_path, monkeypatch):
    first = {"library": python(""), "a": python("raise SystemExit(1)"), "b": python("")}
    monkeypatch.setattr(plan, "FIRST", first)
    monkeypatch.setattr(plan, "SECOND", {"fp16": python("")})
    monkeypatch.setattr(plan, "PARTS", first | plan.SECOND)
    found = run(tmp_path, of=first)
    assert found["parts"]["a"]["status"] == "FAILED: exit 1"
    mended = plan.PARTS | {"a": python("")}
    found = run(tmp_path, "--second", "--commit", "def", of=mended)
    ran = {name for name, part in found["parts"].items() if part["commit"] == "def"}
    assert ran == {"library", "a", "fp16"} and found["parts"]["a"]["status"] == "ok"


def test_results_of_another_card_are_kept_apart(tmp_path):
    run(tmp_path, "--only", "works")
    other = {"other": python(WRITES.replace("NVIDIA X", "NVIDIA Y"))}
    found = run(tmp_path, of=other)
    assert found["machine"]["name"] == "NVIDIA Y" and list(found["parts"]) == ["other"]
    earlier = json.loads((tmp_path / "earlier-report.json").read_text())
    assert earlier["machine"]["name"] == "NVIDIA X" and list(earlier["parts"]) == ["works"]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


CHILDREN = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(99)"]
children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
print(*(child.pid for child in children), flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("seconds", [0.5, 99])
def test_a_part_takes_its_children_along(tmp_path, seconds):
    """Those in sessions of their own, too, whether it ends by itself or by its limit."""
    part = Part([sys.executable, "-c", CHILDREN, str(seconds)], 3)
    found = runner.run_part(part, part.limit, tmp_path)
    pids = [int(pid) for pid in found["output"].split()]
    assert len(pids) == 2 and not any(map(alive, pids))
    assert found["status"] == ("ok" if seconds < 3 else "FAILED: over 3 s")


REHEARSAL = """
import sys
from benchmarks.gpu import report
from benchmarks.gpu.runner import Part
SLEEPS = '''
import sys, time
from benchmarks.gpu.runner import write_part
for i in range(3):
    time.sleep(0.03)
    write_part({"rows": [{"op": sys.argv[1], "number": j} for j in range(i + 1)]})
'''
parts = {name: Part([sys.executable, "-c", SLEEPS, name], 9) for name in "abcdef"}
sys.exit(report.main(["--out", sys.argv[1], "--commit", "abc", "--only", *parts], parts))
"""


@pytest.mark.parametrize("number", range(5))
def test_killed_at_any_moment_every_finished_part_is_there(tmp_path, number):
    out, told = tmp_path / "out", tmp_path / "told"
    with told.open("w") as stderr:
        command = [sys.executable, "-c", REHEARSAL, str(out)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=stderr, stderr=stderr)
        waited = time.monotonic() + 60
        while not (out / "report.json").exists() and time.monotonic() < waited:
            time.sleep(0.01)
        time.sleep(random.Random(number).uniform(0, 2))
        process.kill()
        process.wait()
    finished = [line[0] for line in told.read_text().splitlines() if line[1:6] == ": ok,"]
    found = json.loads((out / "report.json").read_text())
    done = found.get("parts", {})
    assert set(finished) <= set(done) and list(done) == list("abcdef")[: len(done)]
    for name in done:
        rows = [row["number"] for row in found["rows"] if row["part"] == name]
        assert rows == [0, 1, 2]
    assert len(list(out.iterdir())) <= 8
    # What the part at hand had found is taken up by the next run.
    partial = runner.read_json(out / "part.json").get("rows", [])
    again = report.Report(out, "abc").content
    running = found.get("running")
    if running and partial:
        taken = [row for row in again["rows"] if row["part"] == running]
        assert len(taken) == len(partial)
        assert again["parts"][running]["status"] == "FAILED: ended"


def test_an_ended_report_ends_its_part(tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(99)"
    script = f"""
import sys
from benchmarks.gpu import report
from benchmarks.gpu.runner import Part
part = Part([sys.executable, "-c", {code!r}], 99)
report.main(["--out", {str(tmp_path)!r}, "--only", "a"], {{"a": part}})
"""
    for end in (signal.SIGTERM, signal.SIGKILL):
        log = tmp_path / "report.log"
        log.unlink(missing_ok=True)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, **quiet)
        waited = time.monotonic() + 60
        while not (log.exists() and log.read_text().strip()) and time.monotonic() < waited:
            time.sleep(0.02)
        process.send_signal(end)
        process.wait(30)
        time.sleep(0.2)
        assert not alive(int(log.read_text().split()[0])), end


def test_a_broken_file_is_no_report(tmp_path):
    (tmp_path / "report.json").write_text('{"parts": {"a"')
    assert list(run(tmp_path, "--only", "works")["parts"]) == ["works"]


def test_the_commit_needs_no_git_and_the_driver_no_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOPRUNE_COMMIT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.commit() == "unknown"
    assert isinstance(parts.driver(), str)
    monkeypatch.setenv("ZOPRUNE_COMMIT", "1234abc")
    assert git.commit() == "1234abc"
    code = "from benchmarks.gpu import report; report.main(['--only', 'a'], {'a': 0})"
    assert "torch" not in code  # the report itself runs on the standard library alone
    code = "import sys; sys.modules['torch'] = None; import benchmarks.gpu.report"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("archs", "capability", "right"),
    [
        ("90a-real", (9, 0), True),
        ("80 90a-real 100a-real", (9, 0), True),
        ("80 90a-real 100a-real", (8, 9), True),
        ("80 90a-real 100a-real", (12, 0), True),  # by PTX of 8.0
        ("80-real", (8, 6), True),
        ("80-real", (9, 0), False),
        ("90a-real", (8, 0), False),
        ("90a-real", (10, 0), False),
        ("", (9, 0), False),
    ],
)
def test_a_library_fits_the_gpu_it_was_built_for(archs, capability, right):
    assert parts.fits(archs, capability) is right


def test_a_library_that_fits_is_not_built_again(monkeypatch, capsys):
    about = {"name": "NVIDIA X"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(parts, "machine", lambda: dict(about))
    built = []

    def build(command, **options):
        built.append((command[1:], options["env"]["CUDAARCHS"]))

    monkeypatch.setattr(parts.subprocess, "run", build)
    probes = iter([{"error": None, "archs": "90a-real"}])
    monkeypatch.setattr(parts, "probe", lambda: next(probes))
    assert parts.library() == 0 and not built
    # One that does not load, or is for another GPU, is built for this one.
    for bad in (
        {"error": "undefined symbol", "archs": "90a-real"},
        {"error": None, "archs": "80-real"},
    ):
        probes = iter([bad, {"error": None, "archs": "90a-real"}])
        assert parts.library() == 0
        assert built.pop() == (["setup.py", "build_ext", "--inplace"], "90a-real")
    probes = iter([bad, bad])
    assert parts.library() == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert parts.library() == 1 and "no GPU" in capsys.readouterr().out


def test_the_plan_fits_its_time_and_the_sanitizer_its_launches(monkeypatch):
    limits = {name: part.limit for name, part in plan.FIRST.items()}
    assert sum(limits.values()) - limits["library"] + 60 <= report.SECONDS
    assert plan.FIRST["library"].vital
    # Names of tests, in the order of the files, and no process of a compiler's besides.
    command = plan.gpu_tests()
    assert command[command.index("-o") + 1] == "addopts=" and "-v" in command
    assert plan.FIRST["gpu-tests"].limit <= 75
    assert plan.FIRST["gpu-tests"].environment["TORCHINDUCTOR_COMPILE_THREADS"] == "1"
    assert "tests/cuda/test_gpu_operators.py" in command
    assert "tests/cuda/test_gpu_report.py" not in command
    ran = []
    monkeypatch.setattr(parts.shutil, "which", lambda name: sys.executable)
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(parts.subprocess, "run", lambda command, **_: ran.append(command) or done)
    assert parts.sanitizer("memcheck") == 0
    assert ran[0][ran[0].index("--launch-timeout") + 1] == "60"
    assert ran[0][-1] == "sanitized"
    assert parts.sanitizer("racecheck") == 0 and ran[1][-2:] == ["sanitized", "small"]


DETAILS = """==PROF== Disconnected
"ID","Kernel Name","Context","Section Name","Metric Name","Metric Unit","Metric Value"
"0","_linear_kernel","1","GPU Speed Of Light Throughput","Duration","us","9.31"
"0","_linear_kernel","1","GPU Speed Of Light Throughput","L2 Cache Throughput","%","41.2"
"0","_linear_kernel","1","Memory Workload Analysis","L2 Cache Throughput","%","41.3"
"0","_linear_kernel","1","Launch Statistics","Grid Size","","160"
"1","select_kernel, ""bf16"", 4","1","Launch Statistics","Registers Per Thread","regs","128"
"1","select_kernel, ""bf16"", 4","1","SpeedOfLight","","",""
"""


def test_a_profile_is_told_in_a_few_numbers_a_kernel():
    assert parts.profiled_kernels(DETAILS) == [
        {"kernel": "_linear_kernel", "Duration": "9.31 us", "L2 Cache Throughput": "41.2 %"},
        {"kernel": 'select_kernel, "bf16", 4', "Registers Per Thread": "128 regs"},
    ]
    assert parts.profiled_kernels("") == []


NCU = """#!/bin/sh
case "$*" in
*--import*details*) cat <<'END'
{details}END
;;
*--import*source*) echo "the first lines"; exec sleep 60 ;;
*) while [ "$1" != -o ]; do shift; done; echo recorded > $2.ncu-rep ;;
esac
"""


@pytest.mark.parametrize("largest", [100, 1])
def test_a_profile_loses_nothing_of_what_is_there(tmp_path, monkeypatch, largest):
    """The source page does not end; the recording is kept where it is small enough."""
    ncu = tmp_path / "ncu"
    ncu.write_text(NCU.format(details=DETAILS))
    ncu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv(runner.OUTPUT, str(tmp_path / "part.json"))
    monkeypatch.setattr(parts, "SOURCE", 0.5)
    monkeypatch.setattr(parts, "LARGEST_RECORDING", largest)
    assert parts.profile() == 0
    assert len(runner.read_json(tmp_path / "part.json")["profile"]) == 2
    assert (tmp_path / "profile-details.csv").read_text() == DETAILS
    assert (tmp_path / "profile-source.csv").read_text() == "the first lines\n"
    assert (tmp_path / "profile.ncu-rep").exists() is (largest == 100)
