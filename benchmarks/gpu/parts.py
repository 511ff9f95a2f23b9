"""Parts of ``make gpu-report`` that run in this package: ``python -m benchmarks.gpu.parts PART``.

    library | check | selection DTYPE | family DTYPE | scoring DTYPE | ceilings |
    sanitizer TOOL | sanitized | profile | profiled

Each writes what it has found after every row, so that its time limit loses no more than the row at
hand.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ..git import commit
from . import cases, timing
from .runner import OUTPUT, ROOT, Row, write_part

PACKAGES = ("torch", "triton", "transformers", "numpy")
# Loads the library in a process of its own and tells what it was built for.
PROBE = """
import json
from zoprune_kernels import _native
print(json.dumps({"error": _native.load(), "archs": _native.build_info().get("cuda_archs", "")}))
"""


def machine() -> Row:
    """The GPU, the software and the commit; what cannot be asked for is left empty."""
    properties = torch.cuda.get_device_properties(0)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = ""
    return versions | {
        "device": "cuda",
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        "driver": driver(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%dT%H:%M+00:00", time.gmtime()),
        "commit": commit(),
        "command": "make gpu-report",
    }


def driver() -> str:
    """The driver's version; empty where neither nvidia-smi nor the kernel module tells."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=10)
        if asked.returncode == 0:
            return asked.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    found = re.search(r"\s(\d+\.\d+[\d.]*)\s", text)
    return found[1] if found else ""


def fits(archs: str, capability: tuple[int, int]) -> bool:
    """Whether one of the architectures a library was built for runs on a GPU.

    As CMake writes them: "90a-real" is machine code for 9.0 alone, "80-real" for 8.0 to 8.9, "80"
    also PTX for everything later.
    """
    for number, specific, real in re.findall(r"(\d+)([af]?)(-real)?", archs):
        own = int(number[:-1]), int(number[-1])
        if own == capability or (not specific and own[0] == capability[0] and own < capability):
            return True
        if not specific and not real and own < capability:
            return True
    return False


def probe() -> Row:
    """What stands against the library that is there: ``error``, and its ``archs``."""
    run = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True)
    try:
        return json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": run.stderr[-2000:] or f"exit status {run.returncode}", "archs": ""}


def library() -> int:
    """Sees to a library that loads and fits the GPU, built here only where none does."""
    if not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is False")
        return 1
    about = machine()
    write_part({"machine": about})
    capability = torch.cuda.get_device_capability(0)
    found = probe()
    built = "beforehand"
    if found["error"] or not fits(found["archs"], capability):
        print(f"building: {found['error'] or 'it was built for ' + (found['archs'] or 'no GPU')}")
        name = "".join(map(str, capability)) + ("a" if capability >= (9, 0) else "")
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        environment = os.environ | {"CUDAARCHS": f"{name}-real", "ZOPRUNE_CUDA": "ON"}
        subprocess.run(command, cwd=ROOT, env=environment)
        found, built = probe(), "by this report"
    about["library"] = {"built": built} | found
    write_part({"machine": about})
    print(about["library"])
    return int(bool(found["error"]) or not fits(found["archs"], capability))


def check() -> int:
    """One checked call of every operator, the fallbacks included."""
    from zoprune_kernels import backend, testing

    rows: list[Row] = []
    failed = False
    for dtype in (torch.bfloat16, torch.float32):
        for call in testing.calls(dtype):
            row: Row = {"op": call.op, "dtype": str(dtype).removeprefix("torch.")}
            row["backend"] = next(
                name for name, reason in backend.candidates(call.op, "cuda") if reason is None
            )
            try:
                checks = call.to("cuda").check()
                row["checks"] = [str(check) for check in checks]
                row["passed"] = all(check.passed for check in checks)
            except Exception as error:
                row |= {"passed": False, "error": f"{type(error).__name__}: {error}"[:1000]}
            failed |= not row["passed"]
            rows.append(row)
            write_part({"checks": rows})
            print(row, flush=True)
    return int(failed)


def measure(part: str, dtype: str) -> int:
    rows = []
    with torch.inference_mode():
        for row in cases.measure(part, dtype):
            rows.append(row)
            write_part({"rows": rows})
            told = row.get("refused", row.get("seconds"))
            print(row["op"], row["variant"], row["shape"], told, flush=True)
    return int(any("refused" in row for row in rows))


def ceilings() -> int:
    found = {"copy, read and written": f"{timing.copy_bandwidth() / 1e12:.2f} TB/s"}
    write_part({"ceilings": found})
    for dtype in (torch.bfloat16, torch.float16):
        name = f"8192^3 matrix product, {str(dtype).removeprefix('torch.')}"
        found[name] = f"{timing.matrix_rate(dtype) / 1e12:.0f} TFLOP/s"
        write_part({"ceilings": found})
    print(found)
    return 0


def sanitizer(tool: str) -> int:
    """Runs ``sanitized`` under compute-sanitizer; reports where that does not work at all."""
    executable = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(executable).exists():
        print("compute-sanitizer is not installed")
        return 1
    # Every tensor an allocation of its own, so that a step beyond it is seen.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [executable, "--tool", tool, "--error-exitcode", "9", "--launch-timeout", "60"]
    command += ["--kernel-name", "kernel_substring=select_kernel"]
    command += [sys.executable, "-m", "benchmarks.gpu.parts", "sanitized"]
    command += ["small"] if tool == "racecheck" else []  # it takes several times as long
    return subprocess.run(command, env=environment, cwd=ROOT).returncode


SMALL, LARGER = ((1, 63, 24, 20), (1, 131, 7, 5)), ((2, 300, 520, 150),)  # images, tokens, dim, k


def sanitized(size: str = "") -> int:
    """A few selections of every kind, small enough for compute-sanitizer; ``small``: fewer."""
    import zoprune_kernels as zk
    from zoprune_kernels import testing

    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for images, tokens, dim, k in SMALL if size == "small" else SMALL + LARGER:
            scores = torch.rand(images, tokens, device="cuda")
            keys = torch.randn(images, tokens, dim, device="cuda").to(dtype)
            picks = zk.select(scores, keys, k, valid=scores > 0.1, max_similarity=0.9)
            assert picks.shape == (images, k)
            zk.select(scores, keys, k, first="isolated", centre=True, picks_per_step=4)
            zk.select_dpp(scores, keys, k, must_keep=scores > 0.95)
            zk.select_suppress(scores, keys, k, rule="exponential", valid=scores > 0.1)
            zk.select_coverage(scores, keys, k, scores, scores > 0.95, sort=False)
            picks = zk.select(scores, keys, k, sort=False)
            result = testing.certify_select(picks, scores, keys)
            assert result.passed, result
            sizes = torch.tensor([0, tokens // 3, tokens], dtype=torch.int32, device="cuda")
            zk.select_varlen(scores[0], keys[0], sizes, sizes, tokens)
            print(dtype, images, tokens, dim, k, flush=True)
    if size != "small":
        scores, keys = torch.rand(3000, device="cuda"), torch.randn(3000, 8, device="cuda")
        zk.select_coverage(scores, keys, 4)  # too many tokens to keep their cosines
    torch.cuda.synchronize()
    print("all selections are right")
    return 0


# Kernels worth a profile, and those whose machine code is worth a page.
PROFILED = "select_kernel|_linear_kernel|_project_and_quadratic_kernel|_sensitivity_kernel"
READ = "select_kernel"
RECORDING, DETAILS, SOURCE = 65, 15, 15  # seconds
LARGEST_RECORDING = 16 << 20  # bytes that are kept


def profile() -> int:
    """Runs ``profiled`` under Nsight Compute: what bounds each kernel, and where warps wait.

    Beside the report come, by Nsight Compute's own names, the recording, which opens in its window,
    the details of all kernels, and the source page of the selections; each as soon as it is there.
    """
    executable = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    if not Path(executable).exists():
        print("ncu is not installed")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        out = os.environ.get(OUTPUT)
        folder = Path(out).parent if out else Path(temporary)
        recording = folder / "profile.ncu-rep"
        # The card's clocks stay as they are: it may be shared.
        command = [executable, "--set", "full", "--clock-control", "none", "-f"]
        command += ["--kernel-name", f"regex:{PROFILED}", "-o", str(recording.with_suffix(""))]
        command += ["--profile-from-start", "off", sys.executable, "-m", "benchmarks.gpu.parts"]
        status = limited([*command, "profiled"], RECORDING)
        if not recording.exists():
            print("there is no recording")
            return status or 1
        reading = [executable, "--import", str(recording), "--csv", "--page"]
        details, source = folder / "profile-details.csv", folder / "profile-source.csv"
        status |= limited([*reading, "details"], DETAILS, details)
        write_part({"profile": profiled_kernels(details.read_text(errors="replace"))})
        limited([*reading, "source", "--kernel-name", f"regex:{READ}"], SOURCE, source)
        if recording.stat().st_size > LARGEST_RECORDING:
            print(f"the recording of {recording.stat().st_size} bytes is not kept")
            recording.unlink()
    return status


def limited(command: list[str], seconds: float, output: Path | None = None) -> int:
    """Runs a command for so long at most; what it has written to ``output`` by then stays."""
    with contextlib.ExitStack() as opened:
        stdout = opened.enter_context(output.open("w")) if output else None
        try:
            return subprocess.run(command, cwd=ROOT, stdout=stdout, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            print(f"over {seconds} s: {' '.join(command)}", flush=True)
            return 1


# Of Nsight Compute's metrics those that tell what a kernel is bound by.
TOLD = (
    "Duration",
    "SM Frequency",
    "Memory Throughput",
    "DRAM Throughput",
    "L1/TEX Cache Throughput",
    "L2 Cache Throughput",
    "Compute (SM) Throughput",
    "Executed Ipc Active",
    "Issue Slots Busy",
    "Registers Per Thread",
    "Achieved Occupancy",
)


def profiled_kernels(details: str) -> list[Row]:
    """Each launch with the metrics ``TOLD``, from the CSV text of Nsight Compute's details."""
    launches: dict[str, Row] = {}
    for line in csv.DictReader(io.StringIO(details[details.find('"ID"') :])):
        launch = launches.setdefault(line["ID"], {"kernel": line["Kernel Name"][:100]})
        if line.get("Metric Name") in TOLD:
            value = f"{line['Metric Value']} {line['Metric Unit']}"
            launch.setdefault(line["Metric Name"], value.strip())
    return list(launches.values())


def profiled() -> int:
    """One call each of what is worth a look, compiled before."""
    import zoprune_kernels as zk

    from ..shapes import LLAVA, LLAVA_NEXT, make_inputs

    x = make_inputs(LLAVA, torch.bfloat16).to("cuda")
    longer = make_inputs(LLAVA_NEXT, torch.bfloat16).to("cuda")
    layers = (x.x, x.w1, x.b1, x.w2, x.b2)
    directions = zk.directions(64, LLAVA.inputs, device="cuda")
    with torch.inference_mode():
        for recorded in (False, True):
            if recorded:
                torch.cuda.synchronize()
                torch.cuda.profiler.start()
            zk.project_and_select(*layers, LLAVA.keep[0], metric=x.metric)
            zk.select(longer.scores, longer.keys, LLAVA_NEXT.keep[-1])
            zk.sensitivity(*layers[:4], directions, step=0.0)
            torch.cuda.synchronize()
    torch.cuda.profiler.stop()
    return 0


def main(arguments: list[str]) -> int:
    name, *rest = arguments
    if name in cases.PARTS:
        return measure(name, *rest)
    others: dict[str, Any] = {
        "library": library,
        "check": check,
        "ceilings": ceilings,
        "sanitizer": sanitizer,
        "sanitized": sanitized,
        "profile": profile,
        "profiled": profiled,
    }
    return others[name](*rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
