"""Third stage of ``make train``: the trained model, its sample and its log become package data.

    python -m benchmarks.accuracy.export --out build/train

writes python/zoprune/cli/trained: a checkpoint that transformers' ``from_pretrained`` loads, the
demo's held-out picture with its questions, and what the training printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from PIL import Image
from zoprune.cli.checkpoint import TRAINED

from . import compose, questions, scenes
from . import model as small
from .report import RESULT, TEST

SAMPLE = TEST + 10**6  # seed: not of the pictures of the table
OBJECTS = 5
SHOWN = (576, 64, 16)


def sample() -> tuple[Image.Image, list[questions.Question]]:
    """The first picture with ``OBJECTS`` objects, and the first questions of every kind in turn."""
    generator = torch.Generator().manual_seed(SAMPLE)
    while True:
        layout = scenes.draw(generator, "test", 1, count=OBJECTS)
        asked = questions.texts(questions.ask(layout, generator))[0]
        kinds = {kind: [q for q in asked if q.kind == kind] for kind in questions.KINDS}
        if all(kinds.values()):
            break
    pixels = compose.render(layout)[0].permute(1, 2, 0).numpy()
    return Image.fromarray(pixels), [kinds[kind][0] for kind in questions.KINDS]


def write_sample(folder: Path) -> None:
    """The picture, its questions, and the shares of the accuracy report where there is one."""
    picture, asked = sample()
    picture.save(folder / "sample.png", optimize=True)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": [], "questions": 0}
    found = {
        row["kept"]: row["right"] for row in result["rows"] if row["method"] in ("all", "closed")
    }
    about = {
        "seed": SAMPLE,
        "questions": [{"question": q.text, "answer": q.answer, "kind": q.kind} for q in asked],
        "asked": result["questions"],
        "accuracy": {str(k): found[k] for k in SHOWN if k in found},
    }
    (folder / "sample.json").write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/train"), help="of the training")
    parser.add_argument("--to", type=Path, default=TRAINED)
    parser.add_argument("--sample", action="store_true", help="only the sample and its shares")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    if not options.sample:
        model = small.build()
        state = torch.load(options.out / "answers.pt", weights_only=True)
        model.load_state_dict(state["model"])
        small.save(model.eval(), options.to)
        (options.to / "model.safetensors").chmod(0o644)
        for stage in ("tower", "answers"):
            shutil.copy(options.out / f"{stage}.jsonl", options.to / f"{stage}.jsonl")
    write_sample(options.to)
    size = sum(path.stat().st_size for path in options.to.iterdir())
    print(f"wrote {options.to} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
