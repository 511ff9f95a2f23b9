"""The Python face: names, ``py.typed``, and signatures as type checkers see them."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import zoprune
from zoprune import choices

import zoprune_kernels
from zoprune_kernels.checks import DISTRIBUTIONS
from zoprune_kernels.methods import (
    FIRST_PICKS,
    METHODS,
    OPTIONS,
    PUBLISHED_AS,
    SUPPRESS_RULES,
    ScoreOptions,
    SelectOptions,
)

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests/typing/sample.py"
NAMES = ["PrunedProjector", "keep", "prune", "report", "restore"]


def test_the_package_shows_its_names():
    assert dir(zoprune) == sorted([*NAMES, "__version__"]) and zoprune.__all__ == NAMES
    code = "import sys, zoprune; dir(zoprune); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", [zoprune, zoprune_kernels])
def test_the_package_is_typed(package):
    assert (Path(package.__file__).parent / "py.typed").is_file()


def test_every_name_has_an_example():
    for name in NAMES:
        assert re.search(r"Example::?\n", inspect.getdoc(getattr(zoprune, name))), name
    for name in zoprune_kernels.__all__:
        assert "Example:\n" in inspect.getdoc(getattr(zoprune_kernels, name)), name


def test_choices_are_those_of_the_operators():
    options = get_type_hints(choices.MethodOptions)
    assert get_args(choices.Method) == tuple(METHODS)
    assert get_args(choices.Distribution) == tuple(DISTRIBUTIONS)
    assert set(options) == {*OPTIONS, *PUBLISHED_AS.values()}
    assert get_args(options["first"]) == FIRST_PICKS
    assert get_args(options["rule"]) == SUPPRESS_RULES
    for function in (zoprune.prune, zoprune.PrunedProjector.__init__):
        parameters = inspect.signature(function).parameters
        assert parameters["method"].default == SelectOptions.method
        assert parameters["distribution"].default == ScoreOptions.distribution


def check(found: list[int]) -> None:
    """The checker's errors are on the lines of the sample that say so, and on no other."""
    expected = [
        number
        for number, line in enumerate(SAMPLE.read_text().splitlines(), start=1)
        if line.endswith("# error")
    ]
    assert len(expected) > 10 and sorted(set(found)) == expected


def test_mypy(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed: pip install -e '.[lint]'")
    command = ["--config-file", "tests/typing/mypy.ini", "--no-error-summary", str(SAMPLE)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert not done.stderr, done.stderr
    assert done.returncode == 1, done.stdout
    check([int(n) for n in re.findall(r"sample\.py:(\d+): error", done.stdout)])


def test_pyright():
    program = shutil.which("basedpyright", path=Path(sys.executable).parent) or shutil.which(
        "pyright"
    )
    if program is None:
        pytest.skip("neither basedpyright nor pyright is installed: pip install -e '.[lint]'")
    settings = ROOT / "tests/typing/pyright.json"
    done = subprocess.run(
        [program, "--outputjson", "--pythonpath", sys.executable, "-p", str(settings)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [d for d in found if d["severity"] == "error"]
    assert all(d["file"] == str(SAMPLE) for d in errors), errors
    check([d["range"]["start"]["line"] + 1 for d in errors])
