"""Every code block of the documents runs, or says above it why not: ``<!-- not run: a server -->``.

The Python blocks of a page run one after the other in one namespace, in a folder of their own with
``photo.jpg`` in it. What a page takes for granted is in ``GIVEN``. Names on the hub that the pages
load are tiny random models here, found in a cache as the hub's are, without a network.
"""

from __future__ import annotations

import argparse
import functools
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from zoprune.cli import COMMANDS, main, standins

from tests.test_documents import DOCUMENTS, FENCE, ROOT, each, prose

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e '.[hf]' from a clone"
)

from tests.hf.checkpoint import save_llava

pytestmark = pytest.mark.usefixtures("one_thread")
HUB = ("llava-hf/llava-1.5-7b-hf",)
NOT_RUN = re.compile(r"<!-- not run: (\S.*?) -->\n+\Z")
WORDS = 120  # of a paragraph, at most

LLAVA = """
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration
from PIL import Image
torch.manual_seed(0)
processor = AutoProcessor.from_pretrained("llava-hf/llava-1.5-7b-hf")
model = LlavaForConditionalGeneration.from_pretrained("llava-hf/llava-1.5-7b-hf").eval()
photo = Image.open("photo.jpg")
inputs = processor(images=photo, text="<image> what is this ?", return_tensors="pt")
inputs["max_new_tokens"] = 2
"""
GIVEN = {
    "README.md": LLAVA
    + """
x, w1, w2 = torch.randn(2, 100, 64), torch.randn(128, 64), torch.randn(96, 128)
b1, b2 = torch.randn(128), torch.randn(96)
""",
    "docs/models.md": LLAVA
    + """
from tests.hf.models import CASES, make
video_model = make(next(case for case in CASES if case.name == "llava_onevision"))
from torch import nn
model.mm_projector = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 32))
features = torch.randn(2, 100, 24)
""",
    "docs/quality.md": LLAVA + "evaluate = lambda model: 1.0\n",
    "docs/recipes.md": LLAVA
    + """
from tests.hf.models import CASES, make, prompt
case = next(case for case in CASES if case.name == "llava_next")
crops_model = make(case)
crops_inputs = prompt(case, crops_model)
""",
    "docs/adapters.md": """
import torch
k, ratio, visual_token_num, dominant_num, contextual_num = 64, 0.1, 64, 54, 10
length = 576
tokens, importance_scores = torch.randn(576, 64), torch.rand(576)
image_features, image_embeds = torch.randn(1, 576, 64), torch.randn(1, 576, 32)
text_embeds = torch.randn(3, 32)
attention_map, image_key = torch.rand(24, 24), torch.randn(576, 32)
hidden_states, metric = torch.randn(1, 577, 64), torch.randn(1, 577, 32)
attn_weights = torch.rand(1, 4, 577, 577)
query_embedding, embeddings = torch.randn(64), torch.randn(576, 64)
visual_features, saliency = torch.randn(2, 576, 64), torch.rand(2, 576)
visual_tokens, prompt_tokens = torch.randn(2, 576, 64), torch.randn(2, 7, 64)
entering, leaving = torch.randn(2, 576, 64), torch.randn(2, 576, 64)
visual_states, attention = torch.randn(2, 576, 64), torch.rand(2, 576)
""",
}


def blocks(text: str, *languages: str) -> Iterator[tuple[int, str, str | None]]:
    """(first line, code, why it does not run) of the blocks in one of the languages."""
    for found in FENCE.finditer(text):
        if found[2] in languages:
            code = "".join(line.removeprefix(found[1]) for line in found[3].splitlines(True))
            reason = NOT_RUN.search(text[: found.start()])
            yield text[: found.start()].count("\n") + 2, code, reason and reason[1]


def commands(code: str) -> Iterator[str]:
    """The command lines of a block, continued ones joined."""
    for line in code.replace("\\\n", " ").splitlines():
        yield line.removeprefix("$ ").partition(" #")[0].strip()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_llava(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(tmp_path, checkpoint, monkeypatch) -> Path:
    """A working folder with a photo; models of the hub in a cache."""
    for name in HUB:
        cached = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("abc")
        shutil.copytree(checkpoint, cached / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    small = functools.partial(standins.random_projector, hidden=64, output=48)
    monkeypatch.setattr(standins, "random_projector", small)
    work = tmp_path / "work"
    work.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(work / "photo.jpg")
    monkeypatch.chdir(work)
    return work


def run_python(text: str, name: str, given: str = "") -> None:
    names: dict[str, object] = {"__name__": "block"}
    exec(given, names)
    for line, code, reason in blocks(text, "python", "py"):
        if reason is None and not code.startswith(">>>"):  # examples of docstrings run elsewhere
            exec(compile("\n" * (line - 1) + code, name, "exec"), names)


def run_shell(text: str, checkpoint: Path) -> None:
    """``zoprune`` and the examples; what makes, installs or serves is another test's, or marked."""
    for _, code, reason in blocks(text, "", "bash", "sh", "console"):
        for line in commands(code) if reason is None else ():
            words = (
                [str(checkpoint) if w in HUB or w == "CHECKPOINT" else w for w in shlex.split(line)]
                if line.startswith(("zoprune ", "python python/"))
                else []
            )
            if words[:1] == ["zoprune"]:
                assert main(words[1:]) == 0, line
            elif words:
                script = ROOT / words[1]
                sys.argv = words[1:]
                runpy.run_path(str(script))


def written_in_python(document: Path) -> bool:
    return any(blocks(document.read_text(), "python", "py"))


@each([document for document in DOCUMENTS if written_in_python(document)])
def test_python_runs(document, folder, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    name = str(document.relative_to(ROOT))
    run_python(document.read_text(), name, GIVEN.get(name, ""))


@each()
def test_commands_run(document, folder, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", sys.argv)
    examples = str(ROOT / "python/examples")
    monkeypatch.setattr(sys, "path", [examples, str(ROOT), *sys.path])
    run_shell(document.read_text(), checkpoint)


def check_command(words: list[str]) -> None:
    """A command within a sentence may be cut short, but what it names is there."""
    parser = argparse.ArgumentParser()
    if not words[0].startswith("-"):
        COMMANDS[words[0]].add_arguments(parser)
    known = {"--help", "--version", *parser._option_string_actions}
    named = {word for word in words if word.startswith("--")}
    assert named <= known, f"{words}: no {sorted(named - known)}"


@each()
def test_commands_within_sentences_exist(document):
    for command in re.findall(r"`zoprune ([^`]*)`", prose(document.read_text())):
        check_command(shlex.split(command))


@pytest.mark.parametrize(
    ("command", "error"), [("nothing", KeyError), ("demo --x", AssertionError)]
)
def test_a_command_that_does_not_exist_is_found(command, error):
    with pytest.raises(error):
        check_command(command.split())


def long_paragraphs(text: str) -> list[str]:
    """Paragraphs and list items of too many words."""
    found = []
    for part in re.split(r"\n\s*\n", prose(text)):
        if not part.lstrip().startswith(("|", "#", "<!--", "!")):
            items = re.split(r"\n(?=\s*(?:[-*]|\d+\.) )", part)
            found += [item for item in items if len(item.split()) > WORDS]
    return found


@each([document for document in DOCUMENTS if document.name != "CHANGELOG.md"])
def test_no_paragraph_is_long(document):
    assert not long_paragraphs(document.read_text())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nx = 1\n```\n```python\nassert x == 2\n```", AssertionError),
        ("```python\nimport zoprune_nothing\n```", ImportError),
        ("<!-- not run: -->\n```python\n1 / 0\n```", ZeroDivisionError),
        ("```bash\nzoprune inspect nowhere\n```", AssertionError),
        ("```\nzoprune nothing\n```", SystemExit),
    ],
)
def test_what_is_wrong_is_found(text, error, folder, checkpoint):
    with pytest.raises(error):
        run_python(text, "a.md")
        run_shell(text, checkpoint)


def test_what_is_marked_does_not_run(folder, checkpoint):
    text = "<!-- not run: a server -->\n```{}\n1 / 0\nzoprune nothing\n```"
    run_python(text.format("python"), "a.md")
    run_shell(text.format("bash"), checkpoint)


def test_a_long_paragraph_is_found():
    assert long_paragraphs("word " * 121) and not long_paragraphs("word " * 120)
    assert not long_paragraphs("- " + "word " * 70 + "\n- " + "word " * 70)
