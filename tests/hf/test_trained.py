"""The trained model in the package: it answers, and pruned as well as docs/quality.md says."""

import json
import re

import numpy as np
import pytest
import torch
import zoprune
from PIL import Image
from zoprune.cli import main
from zoprune.cli.checkpoint import TRAINED, load, question

pytest.importorskip("transformers", reason="transformers is not installed")

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURES = 12


@pytest.fixture(scope="module")
def loaded():
    return load(str(TRAINED), "float32")


@pytest.fixture(scope="module")
def split(loaded):
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    pytest.importorskip("skimage", reason="the photographs are scikit-image's")
    from benchmarks.accuracy import evaluate, report

    return evaluate.Split.of(loaded[0], "test", report.TEST, PICTURES)


@pytest.fixture(scope="module")
def table():
    from benchmarks.accuracy.report import RESULT

    result = json.loads(RESULT.read_text())
    return {(row["method"], row["kept"]): row["right"] for row in result["rows"]}


@pytest.mark.parametrize(("method", "kept"), [("all", 576), ("closed", 64), ("closed", 8)])
def test_answers_are_as_right_as_the_table_says(loaded, split, table, method, kept):
    from benchmarks.accuracy import evaluate, methods

    default = methods.methods(0.5, 0.9)[0]
    right = evaluate.answer(loaded[0], split, default, kept)
    asked = sum(map(len, right))
    # these are some of the table's own questions: within three standard errors of their share
    error = 3 * (table[method, kept] * (1 - table[method, kept]) / asked) ** 0.5
    assert evaluate.share(right) == pytest.approx(table[method, kept], abs=error)
    assert asked > 100


def test_unpruned_it_answers_nine_of_ten(table):
    assert table["all", 576] > 0.9
    assert table["all", 576] - 0.02 < table["closed", 64] and table["random", 64] < 0.5


def test_prune_gives_the_answers_of_the_report(loaded, split):
    """The public path, one question at a time, against the report's many at once."""
    from benchmarks.accuracy import compose, evaluate, methods
    from benchmarks.accuracy.report import TEST

    model, processor = loaded
    layout, _ = evaluate.drawn("test", TEST, 0)
    pixels = compose.render(layout)[0].permute(1, 2, 0).numpy()
    right = evaluate.answer(model, split, methods.methods(0.5, 0.9)[0], 64)[0]
    zoprune.prune(model, 64)
    try:
        for asked, expected in zip(split.asked[0], right, strict=True):
            inputs = question(model, processor, Image.fromarray(pixels), asked.text)
            ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            words = processor.decode(ids[0, inputs["input_ids"].shape[1] :])
            assert words.endswith("</s>")  # one word, then the end
            assert (words.removesuffix("</s>").strip() == asked.answer) == expected
    finally:
        zoprune.restore(model)


def test_demo_shows_answers_and_marks_the_wrong_ones(tmp_path, capsys):
    assert main(["demo", "--keep", "32", "--out", str(tmp_path / "kept.png")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"576 tokens +32 tokens +8 tokens", printed)
    counts = [int(n) for n in re.findall(r"(\d) of 8", printed)]
    wrong = printed.count("(wrong)")
    assert len(counts) == 3 and wrong == 24 - sum(counts) and counts[0] >= 7
    with Image.open(tmp_path / "kept.png") as picture:
        assert picture.width > 1900
        red = (np.asarray(picture.convert("RGB")).astype(int) - (195, 39, 43)).__abs__().sum(2) < 30
    assert red.any() == (wrong > 0)


def test_sample_says_what_the_report_says(table):
    sample = json.loads((TRAINED / "sample.json").read_text())
    assert sample["accuracy"] == {
        "576": table["all", 576],
        "64": table["closed", 64],
        "16": table["closed", 16],
    }


def test_the_checkpoint_is_small_and_in_half_precision():
    from safetensors.torch import load_file

    weights = load_file(TRAINED / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert sum(path.stat().st_size for path in TRAINED.iterdir()) < 8e6
