"""Every example runs on its tiny model; every architecture has an example."""

import re
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

from tests.hf.checkpoint import save_llava
from tests.hf.models import OLDER

FOLDER = Path(__file__).parents[2] / "python" / "examples"
NAMES = sorted({c.name.removesuffix("-video") for c in OLDER})
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run an example in a folder of its own."""

    def run(path, *arguments):
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(path))

    return run


@pytest.mark.parametrize("name", NAMES)
def test_the_example_keeps_a_part(name, run, tmp_path, capsys):
    path = FOLDER / f"{name}.py"
    run(path)
    printed = capsys.readouterr().out.splitlines()
    kept, tokens = map(int, re.match(r"\[(\d+) of (\d+)\] \[\d+, ", printed[-1]).groups())
    assert 0 < kept < tokens
    assert ("picture" in path.read_text()) == (tmp_path / "kept.png").exists()


def test_with_a_checkpoint(run, tmp_path, capsys):
    run(FOLDER / "llava.py", str(save_llava(tmp_path / "model")))
    full, pruned = capsys.readouterr().out.splitlines()[-2:]
    assert full.startswith("[16 of 16] ") and pruned.startswith("[2 of 16] ")
