"""The plug-in that prunes what transformers' own tests build, and the table of what they said."""

import json
from pathlib import Path

import pytest

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

from zoprune.hf.settings import pruning_of  # noqa: E402

from tests.hf.mlp_models import llava  # noqa: E402
from tests.hf.prune_everything import patch  # noqa: E402

RESULTS = Path(__file__).with_name("transformers_suite.json")
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def test_what_is_built_and_loaded_is_pruned(tmp_path):
    cls = transformers.LlavaForConditionalGeneration
    undo = patch(cls, 1.0)
    try:
        built = llava()
        built.save_pretrained(tmp_path)
        loaded = cls.from_pretrained(tmp_path)
        assert pruning_of(built).keep == pruning_of(loaded).keep == 1.0
    finally:
        undo()
    assert pruning_of(llava()) is None and pruning_of(cls.from_pretrained(tmp_path)) is None


def test_the_table_is_that_of_the_results():
    rows = [
        f"| {name} | {r['passed']} | {r['failed']} | {r['only_pruned']} | {r['models']} |"
        for name, r in sorted(json.loads(RESULTS.read_text())["families"].items())
    ]
    assert "\n".join(rows) in PAGE.read_text()
