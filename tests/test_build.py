"""The native library loads, reports itself and obeys the environment; its directions are exact."""

import importlib
import importlib.util
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoprune_kernels
from tests.source_tree import ROOT, needs_sources
from zoprune_kernels import _native, backend, directions, info
from zoprune_kernels.operators import OPERATORS

PACKAGE = Path(_native.__file__).parent
MASK = 0xFFFFFFFF
DISTRIBUTIONS = ("sphere", "gaussian", "rademacher", "orthogonal")


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 in Python integers, independent of the package."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & MASK, (p >> 32) ^ c[3] ^ k[1], p & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def expected_directions(num: int, dim: int, distribution: str, seed: int) -> torch.Tensor:
    """float64 [num, dim] directions, element by element from their definition."""
    stream = int(distribution == "rademacher")
    key = (seed & MASK, (seed >> 32) & MASK)
    rows = []
    for row in range(num):
        words = [w for c in range((dim + 3) // 4) for w in philox((c, row, stream, 0), key)]
        if distribution == "rademacher":
            rows.append([(1 - 2 * (word >> 31)) / math.sqrt(dim) for word in words[:dim]])
            continue
        normal = []
        for even, odd in zip(words[::2], words[1::2], strict=True):
            radius = math.sqrt(-2 * math.log((even + 1) * 2.0**-32))
            angle = 2 * math.pi * odd * 2.0**-32
            normal += [radius * math.cos(angle), radius * math.sin(angle)]
        rows.append(normal[:dim])
    out = torch.tensor(rows, dtype=torch.float64)
    if distribution == "gaussian":
        return out / math.sqrt(dim)
    if distribution == "sphere":
        return out / out.norm(dim=1, keepdim=True)
    if distribution == "orthogonal":  # the QR factor with a positive diagonal is Gram-Schmidt's
        groups = []
        for group in out.split(dim):
            q, r = torch.linalg.qr(group.T)
            groups.append((q * r.diagonal().sign()).T)
        return torch.cat(groups)
    return out


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, where environment variables are read anew."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_philox_known_answers():
    """Random123's published vectors."""
    zeros = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert philox((0, 0, 0, 0), (0, 0)) == zeros
    assert philox((MASK,) * 4, (MASK, MASK)) == ones


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("num, dim", [(1, 1), (3, 2), (7, 63), (20, 6)])
@pytest.mark.parametrize("seed", [0, -1, 2**40 + 5])
def test_native_directions(distribution, num, dim, seed):
    assert backend.candidates("directions", "cpu")[0] == ("cpu", None)
    actual = directions(num, dim, distribution=distribution, seed=seed)
    expected = expected_directions(num, dim, distribution, seed).float()
    if distribution == "rademacher":
        assert torch.equal(actual, expected)
    else:
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_native_directions_are_cast_last(dtype):
    exact = directions(5, 63)
    assert torch.equal(directions(5, 63, dtype=dtype), exact.to(dtype))


def test_native_orthogonal_rows():
    rows = directions(100, 63, distribution="orthogonal")
    for group in rows.double().split(63):
        identity = torch.eye(len(group), dtype=torch.float64)
        torch.testing.assert_close(group @ group.T, identity, rtol=0, atol=1e-6)


def test_info_lists_every_operator():
    report = info.report()
    for op in OPERATORS:
        assert sum(line.split()[:1] == [op] for line in report.splitlines()) == 2
    assert f"built with torch        {_native.build_info()['torch']}" in report


def test_info_says_why_not_a_faster_backend(monkeypatch):
    monkeypatch.setattr(backend, "native_error", "it is not built")
    assert backend.candidates("directions", "cpu") == [
        ("cpu", "native library: it is not built"),
        ("reference", None),
    ]


def test_a_library_that_cannot_load_is_explained(monkeypatch, tmp_path):
    broken = tmp_path / "libzoprune.so"
    broken.write_bytes(b"zoprune_build_info\ntorch=2.99.0\0")
    monkeypatch.setattr(_native, "LIBRARY", broken)
    with pytest.warns(RuntimeWarning, match="To build it, type: pip install"):
        error = _native.load()
    assert "built with torch 2.99.0" in error and f"torch {torch.__version__} is" in error


@pytest.mark.parametrize(
    "environment, message",
    [
        (
            {"ZOPRUNE_BACKEND": "gpu"},
            "ZOPRUNE_BACKEND: expected one of auto, cuda, triton, cpu, reference, got 'gpu'",
        ),
        ({"ZOPRUNE_CUDA_PDL": "yes"}, "ZOPRUNE_CUDA_PDL: expected 0 or 1, got 'yes'"),
        ({"ZOPRUNE_CUDA_REPLAY": "off"}, "ZOPRUNE_CUDA_REPLAY: expected 0 or 1, got 'off'"),
        ({"ZOPRUNE_BACKEND": "cuda", "CUDA_VISIBLE_DEVICES": ""}, "torch sees no CUDA device"),
        (
            {"ZOPRUNE_CPU_ISA": "sse9"},
            "ZOPRUNE_CPU_ISA: expected scalar, avx2, avx512, avx512bf16 or amx, got 'sse9'",
        ),
    ],
)
def test_a_choice_that_cannot_run_is_an_error(environment, message):
    failed = python(
        "from zoprune_kernels import _native, backend; _native.cpu_isa()", **environment
    )
    assert failed.returncode != 0
    assert message in failed.stderr.splitlines()[-1]


def test_amx_that_is_refused_is_an_error():
    """Where the processor lacks it, or Linux does not let the process use it."""
    done = python("from zoprune_kernels import _native; _native.cpu_isa()", ZOPRUNE_CPU_ISA="amx")
    message = "this processor or its operating system does not support amx"
    assert (done.returncode == 0) == (_native.cpu_isa() == "amx") == (message not in done.stderr)


def test_forced_reference_does_not_load_the_library():
    code = """if True:
        import torch
        from zoprune_kernels import backend
        assert backend.candidates("directions", "cpu") == [("reference", None)]
        assert "libzoprune.so" not in open("/proc/self/maps").read()
        print(torch.ops.zoprune.directions(2, 3, distribution="rademacher").tolist())
    """
    done = python(code, ZOPRUNE_BACKEND="reference")
    assert done.stdout.strip() == str(directions(2, 3, distribution="rademacher").tolist())


def warning_of(folder, *, path: str, **environment: str) -> str:
    """What importing the package from ``path`` says on stderr."""
    code = "import zoprune_kernels as z; print(z.__file__); z.directions(1, 3)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(folder))
    return run.stderr


@pytest.fixture
def without_library(tmp_path):
    """A clone whose library is not built."""
    shutil.copytree(PACKAGE, tmp_path / "zoprune_kernels", ignore=shutil.ignore_patterns("*.so"))
    (tmp_path / "CMakeLists.txt").touch()
    return tmp_path


def test_a_missing_library_warns_once_and_says_what_to_type(without_library):
    said = warning_of(without_library, path=str(without_library))
    assert said.count("RuntimeWarning") == 1
    assert f"{without_library}/zoprune_kernels/libzoprune.so is not built" in said
    assert f"pip install -v --no-build-isolation -e {without_library}" in said
    assert not warning_of(without_library, path=str(without_library), ZOPRUNE_BACKEND="reference")


def test_a_clone_that_hides_an_installed_package_says_so(without_library, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    (site / "zoprune_kernels").mkdir()
    (site / "zoprune_kernels" / "libzoprune.so").touch()
    (site / "zoprune_kernels-0.1.0.dist-info").mkdir()
    (site / "zoprune_kernels-0.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: zoprune_kernels\nVersion: 0.1.0\n"
    )
    said = warning_of(without_library, path=f"{without_library}{os.pathsep}{site}")
    assert f"hides the one installed in {site}/zoprune_kernels" in said
    assert "start it elsewhere" in said


RELOAD = "for name in [n for n in sys.modules if n.startswith('zoprune')]: del sys.modules[name]"


@pytest.mark.parametrize("again", [False, True])
def test_a_second_copy_names_the_first(without_library, again):
    code = f"""if True:
        import sys
        import zoprune_kernels
        {RELOAD}
        if not {again}:
            sys.path.insert(0, {str(without_library)!r})
        import zoprune_kernels
    """
    run = python(code)
    said = run.stderr.splitlines()[-1]
    assert run.returncode == 1 and said.startswith(
        "ImportError: zoprune_kernels: a process has one"
    )
    assert ("the first was loaded before" if again else f"the first is {PACKAGE}.") in said
    assert (
        f"{PACKAGE if again else without_library / 'zoprune_kernels'} was to be the second" in said
    )


def test_the_version_is_the_same_everywhere():
    texts = {
        "pyproject.toml": r'^version = "(.*)"',
        "CITATION.cff": r"^version: (.*)",
        "CHANGELOG.md": r"^## \[(.*?)\]",
    }
    for name, pattern in texts.items():
        if (ROOT / name).exists():
            found = re.search(pattern, (ROOT / name).read_text(), re.MULTILINE)[1]
            assert found == zoprune_kernels.__version__, name


@needs_sources
def test_cmake_options_pass_through_pip(monkeypatch):
    """As config settings and as CMAKE_ARGS, whose options come first, quoted as for a shell."""
    import build_backend

    monkeypatch.setenv("CMAKE_ARGS", "-DA='1 2'")
    monkeypatch.setenv("MAX_JOBS", "1")
    settings = {"cmake.define.B": "x y", "cmake.args": ["-DC=1"], "build.jobs": "3"}
    assert build_backend._settings({**settings, "editable_mode": "compat"}) == {
        "editable_mode": "compat"
    }
    assert shlex.split(os.environ["CMAKE_ARGS"]) == ["-DA=1 2", "-DB=x y", "-DC=1"]
    assert os.environ["MAX_JOBS"] == "3"
    with pytest.raises(SystemExit, match=r"expected cmake.define.NAME, .*, got 'cmake.defin.B'"):
        build_backend._settings({"cmake.defin.B": "1"})


@needs_sources
def test_build_tools_are_asked_for_where_they_are_missing(monkeypatch):
    import build_backend

    monkeypatch.delenv("ZOPRUNE_PURE_PYTHON", raising=False)
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert build_backend._requirements() == ["cmake>=3.18", "ninja"]
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    assert build_backend._requirements() == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert build_backend._requirements() == ["torch>=2.11"]
    monkeypatch.setenv("ZOPRUNE_PURE_PYTHON", "1")
    assert build_backend._requirements() == []


@needs_sources
def test_links_of_the_long_description_are_absolute():
    run = subprocess.run(
        [sys.executable, "setup.py", "-q", "--long-description"],
        cwd=ROOT,
        env={**os.environ, "ZOPRUNE_PURE_PYTHON": "1"},
        capture_output=True,
        text=True,
    )
    targets = re.findall(r"\]\(([^)\s]+)", run.stdout)
    assert len(targets) > 10, run.stderr
    assert [t for t in targets if not re.match(r"https?://|#", t)] == []
    for target in re.findall(r"/(?:blob|raw)/main/([^)#\s]+)", run.stdout):
        assert (ROOT / target).exists(), target


@needs_sources
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("readelf")), reason="no g++")
@pytest.mark.skipif(not _native.LIBRARY.exists(), reason="the native library is not built")
def test_wheels_can_be_linked_for_older_systems(tmp_path):
    """What the library needs of libc and libstdc++ is in manylinux_2_28's, or in baseline.cpp."""
    baseline = importlib.import_module("release.baseline")
    ours = tmp_path / "baseline.o"
    subprocess.run(
        ["g++", "-std=c++17", "-c", ROOT / "csrc" / "baseline.cpp", "-o", ours], check=True
    )
    table = ["readelf", "-W", "--symbols", ours]
    listing = subprocess.run(table, capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r" (?:GLOBAL|WEAK) +\w+ +\w+ (\w+)$", listing, re.M))
    for name in ("libc.so.6", "libm.so.6", "libstdc++.so.6", "ld-linux-x86-64.so.2"):
        found = subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        known |= baseline.symbols(found.stdout.strip()).keys()
    table = ["readelf", "-W", "--dyn-syms", _native.LIBRARY]
    listing = subprocess.run(table, capture_output=True, text=True, check=True).stdout
    families = "|".join(baseline.BASELINE)
    needed = re.findall(rf" UND (\S+?)@(?:{families})_[\d.]+", listing)
    assert needed
    missing = sorted(set(needed) - known)
    assert not missing
