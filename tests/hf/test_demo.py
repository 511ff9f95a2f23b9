"""``zoprune demo --model`` on a checkpoint made here: a tiny LLaVA, a tokenizer of a few words."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

from zoprune.cli import main  # noqa: E402

from tests.hf.checkpoint import save_llava  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }} {% endfor %}{% endfor %}red :"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def demo(checkpoint, photo, out, *options):
    arguments = [photo, "--model", str(checkpoint), "--prompt", "what is this ?"]
    return main(["demo", *arguments, "--out", str(out), "--max-new-tokens", "4", *options])


def answers(printed):
    return re.findall(r"^(?:Unpruned|Pruned): (.*)$", printed, re.MULTILINE)


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "chat"])
def test_both_answers_times_and_the_picture(checkpoint, photo, tmp_path, capsys, template):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    if template:
        (folder / "chat_template.jinja").write_text(template)
    assert demo(folder, photo, tmp_path / "kept.png", "--keep", "5") == 0
    printed = capsys.readouterr().out
    assert re.search(r"unpruned +16 +\d+\.\d+ s +\d+\.\d+ s\n +pruned +5 +\d", printed)
    assert "times as fast to the first token" in printed
    with Image.open(tmp_path / "kept.png") as picture:
        cells = np.asarray(picture.resize((4, 4), Image.Resampling.BOX)).astype(int)
    # at 7 pixels a cell, noise in color stays colorful; what was dropped is almost white
    assert (cells.min(2) < 180).sum() == 5

    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    text = "<image> what is this ? red :" if template else "<image>\nwhat is this ?"
    inputs = processor(images=Image.open(photo), text=text, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, -4:]
    assert answers(printed)[0] == processor.decode(ids, skip_special_tokens=True)
    assert len(answers(printed)) == 2


def test_keeping_more_than_there_is_changes_nothing(checkpoint, photo, tmp_path, capsys):
    assert demo(checkpoint, photo, tmp_path / "kept.png", "--keep", "99") == 0
    full, pruned = answers(capsys.readouterr().out)
    assert full == pruned


def without(checkpoint, folder, *patterns):
    return shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(*patterns))


def test_what_is_missing_is_named(checkpoint, photo, tmp_path, capsys):
    processors = ("processor*", "preprocessor*", "tokenizer*", "special*")
    unsupported = without(checkpoint, tmp_path / "blip", "config.json", "*.safetensors")
    config = transformers.Blip2Config(
        vision_config=dict(num_hidden_layers=0, hidden_size=8, num_attention_heads=1),
        qformer_config=dict(num_hidden_layers=0, hidden_size=8, encoder_hidden_size=8),
        text_config=dict(model_type="opt", num_hidden_layers=0, hidden_size=8, vocab_size=9),
    )
    transformers.Blip2ForConditionalGeneration(config).save_pretrained(unsupported)
    for folder, message in (
        (tmp_path / "nowhere", "--model: expected a directory with a config.json, got"),
        (without(checkpoint, tmp_path / "a", *processors), "--model: expected a processor in"),
        (
            without(checkpoint, tmp_path / "b", "*.safetensors"),
            "--model: expected a model for images and text in",
        ),
        (unsupported, "model: expected one of LlavaForConditionalGeneration"),
    ):
        assert demo(folder, photo, tmp_path / "kept.png") == 2
        error = capsys.readouterr().err
        assert f"zoprune demo: error: {message}" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "x", "--seed", "3"], "--seed: expected it not with --model"),
        (["--model", "x", "--no-literal"], "--no-literal: expected it not with --model"),
        (["--prompt", "why ?"], "--prompt: expected it with --model"),
        (["--model", "x", "--keep", "0"], "--keep: expected a number from 1"),
        (["--model", "x", "--max-new-tokens", "0"], "--max-new-tokens: expected a number from 1"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    assert main(["demo", *options]) == 2
    assert message in capsys.readouterr().err
