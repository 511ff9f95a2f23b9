"""docs/tour.ipynb: its cells run one after the other, with the trained model of the package."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e '.[hf]' from a clone"
)

from zoprune.cli.checkpoint import TRAINED

NOTEBOOK = Path(__file__).parents[1] / "docs/tour.ipynb"
pytestmark = pytest.mark.usefixtures("one_thread")


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code)  # outputs are the reader's own
    return ["".join(cell["source"]) for cell in code]


def value(source: str, names: dict) -> object:
    """Run a cell; what its last line shows, if that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), NOTEBOOK.name, "exec"), names)
    return last and eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


def test_the_notebook_runs(capsys):
    names: dict = {"__name__": "notebook"}
    shown = [value(source, names) for source in cells()]
    printed = capsys.readouterr().out
    assert "\n64 of 576\n" in f"\n{printed}" and " 576 tokens: " in printed
    right = sum(map(str.__eq__, names["unpruned"], names["truth"]))
    assert right > len(names["truth"]) / 2  # the model answers, with all tokens
    assert [type(one).__name__ for one in shown].count("Image") == 3 and len(shown[-1]) == 8
    assert TRAINED.is_dir()
