"""``zoprune demo --model`` on a checkpoint made here: a tiny LLaVA, a tokenizer of a few words."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

from zoprune.cli import main, pictures  # noqa: E402

from tests.hf.checkpoint import save_llava  # noqa: E402

real = pictures.sheet
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
    return re.findall(r"^(?:All \d+|\d+ of \d+) tokens: (.*)$", printed, re.MULTILINE)


def whiteness(panel):
    """Which of 4 x 4 patches of 7 pixels are almost white: those of noise in color are not."""
    cells = np.asarray(panel.resize((28, 28), Image.Resampling.BOX)).astype(int)
    inner = cells.reshape(4, 7, 4, 7, 3)[:, 2:5, :, 2:5].mean(axis=(1, 3))
    return inner.min(2) > 180


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "chat"])
def test_both_answers_times_and_the_picture(checkpoint, photo, tmp_path, capsys, template):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    if template:
        (folder / "chat_template.jinja").write_text(template)
    assert demo(folder, photo, tmp_path / "kept.png", "--keep", "5") == 0
    printed = capsys.readouterr().out
    assert re.search(r"All 16 tokens +\d+\.\d+ s +\d+\.\d+ s\n +5 of 16 tokens +\d", printed)
    assert "times as fast to the first token" in printed
    assert "The middle 40 x 40 pixels of the photo's 60 x 40 are used." in printed  # by CLIP's

    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    text = "<image> what is this ? red :" if template else "<image>\nwhat is this ?"
    inputs = processor(images=Image.open(photo), text=text, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, -4:]
    assert answers(printed)[0] == processor.decode(ids, skip_special_tokens=True)
    assert len(answers(printed)) == 2


def test_the_picture_shows_each_answer_with_what_it_saw(checkpoint, photo, tmp_path, monkeypatch):
    """The tokens of each panel, at the places where the sheet puts its panels."""
    sheets = []
    monkeypatch.setattr(pictures, "sheet", lambda *a, **k: sheets.append(a) or real(*a, **k))
    out = tmp_path / "kept.png"
    assert demo(checkpoint, photo, out, "--keep", "0.5,2", "--per", "call") == 0
    (title, _, panels, footer), size = sheets[0], Image.open(out).size
    assert title == "“what is this ?”" and "pixels of the photo's 60 x 40" in footer
    assert [panel.title for panel in panels] == [
        "All 16 tokens",
        "8 of 16 tokens",
        "2 of 16 tokens",
    ]
    assert all(panel.text and "s to the first token" in panel.caption for panel in panels)
    assert [whiteness(panel.image).sum() for panel in panels] == [0, 8, 14]
    assert size[0] > 3 * panels[0].image.width and size[1] > panels[0].image.height


def test_the_answers_as_an_object(checkpoint, photo, tmp_path, capsys):
    out = str(tmp_path / "kept.png")
    assert demo(checkpoint, photo, out, "--keep", "3", "--method", "maxmin", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [len(answer["kept"]) for answer in facts["answers"]] == [16, 3]
    assert facts["prompt"] == "what is this ?" and facts["picture"] == out
    assert facts["architecture"] == "LlavaForConditionalGeneration"


def test_keeping_more_than_there_is_changes_nothing(checkpoint, photo, tmp_path, capsys):
    assert demo(checkpoint, photo, tmp_path / "kept.png", "--keep", "99") == 0
    full, pruned = answers(capsys.readouterr().out)
    assert full == pruned


def without(checkpoint, folder, *patterns):
    return shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(*patterns))


def broken(checkpoint, folder, file, content):
    """A copy of the checkpoint with this in the place of a file, or of a key of a JSON file."""
    shutil.copytree(checkpoint, folder)
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / file).read_text()) | content).encode()
    elif isinstance(content, slice):
        content = (folder / file).read_bytes()[content]
    (folder / file).write_bytes(content)
    return folder


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
        (tmp_path / "nowhere", "--model: expected a directory with a config.json, or a name on"),
        (photo, "--model: expected a directory with a config.json"),
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
    ("file", "content", "message"),
    [
        ("config.json", b'{"model_type": "lla', "--model: expected a "),
        ("config.json", b"\xff\x00", "--model: expected a "),
        ("tokenizer.json", b"{", "--model: expected a processor in"),
        ("model.safetensors", b"no tensors", "--model: expected a model for images and text in"),
        ("model.safetensors", slice(900), "--model: expected a model for images and text in"),
        ("model.safetensors", slice(-9), "--model: expected a model for images and text in"),
        ("processor_config.json", b"[", "--model: expected a processor"),
    ],
)
def test_broken_files_are_errors_not_tracebacks(
    checkpoint, photo, tmp_path, capsys, file, content, message
):
    folder = broken(checkpoint, tmp_path / "model", file, content)
    assert demo(folder, photo, tmp_path / "kept.png") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"zoprune demo: error: {message}"), error


def test_weights_that_are_not_there_are_not_made_up(checkpoint, photo, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoint, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "projector" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert demo(folder, photo, tmp_path / "kept.png") == 2
    assert "--model: expected all weights in" in capsys.readouterr().err


def test_a_name_on_the_hub(checkpoint, photo, tmp_path, monkeypatch, capsys):
    """As the hub's cache holds it, without a network."""
    cached = tmp_path / "models--tiny--llava"
    shutil.copytree(checkpoint, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert demo("tiny/llava", photo, tmp_path / "kept.png", "--keep", "5") == 0
    assert demo("tiny/none", photo, tmp_path / "kept.png", "--keep", "5") == 2
    assert "--model: expected a processor in tiny/none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "x", "--seed", "3"], "--seed: expected it not with --model"),
        (["--model", "x", "--literal"], "--literal: expected it not with --model"),
        (["--prompt", "why ?"], "--prompt: expected it with --model"),
        (["--model", "x", "--keep", "64,0"], "--keep: expected a count or a ratio in (0, 1]"),
        (["--model", "x", "--seed", "-1"], "--seed: expected a number from 0"),
        (["--model", "x", "--max-new-tokens", "0"], "--max-new-tokens: expected a number from 1"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    assert main(["demo", *options]) == 2
    assert message in capsys.readouterr().err


def test_what_the_model_cannot_do_is_refused(checkpoint, photo, tmp_path, capsys):
    assert demo(checkpoint, photo, tmp_path / "kept.png", "--per", "crop") == 2
    assert "zoprune demo: error: per: expected 'image'" in capsys.readouterr().err
