"""What the examples share: a model with its inputs, and its answer.

Usage: python python/examples/<family>.py [CHECKPOINT [PHOTO [QUESTION]]]. Without a checkpoint they
run on the tests' tiny random model of the family, and answers are numbers of random tokens.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import zoprune


def load(family: str) -> tuple[Any, dict[str, Any], Any]:
    """(model, inputs, processor) from the command line; the tiny model has no processor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", nargs="?", help="a directory or a name on the Hub")
    parser.add_argument("photo", nargs="?", help="default: scikit-image's coffee")
    parser.add_argument("question", nargs="?", default="What is in the picture?")
    args = parser.parse_args()
    if args.checkpoint is None:
        return (*_tiny(family), None)
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from zoprune.cli.checkpoint import question
    from zoprune.cli.photo import open_photo

    processor = AutoProcessor.from_pretrained(args.checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(
        args.checkpoint, dtype="auto", use_safetensors=True
    )
    return model, question(model, processor, open_photo(args.photo), args.question), processor


def answer(model: Any, inputs: dict[str, Any], processor: Any) -> None:
    """Generate, and print how many visual tokens the answer is based on."""
    output = model.generate(**inputs, max_new_tokens=40 if processor else 4, do_sample=False)
    ids = output[0, inputs["input_ids"].shape[1] :]
    text = processor.decode(ids, skip_special_tokens=True) if processor else ids.tolist()
    print(f"[{zoprune.report(model)}] {text}")


def _tiny(family: str) -> tuple[Any, dict[str, Any]]:
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.hf.models import CASES, make, prompt

    torch.manual_seed(0)
    case = next(case for case in CASES if case.name == family)
    model = make(case)
    return model, prompt(case, model)
