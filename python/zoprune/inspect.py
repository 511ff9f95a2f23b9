"""Show the projector of a Hugging Face model and what scoring its tokens costs.

MODEL is a checkpoint's directory; only its config.json is read, no weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from .errors import UsageError

SUMMARY = "show a model's projector and the cost of scoring"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a checkpoint's directory")


def run(args: argparse.Namespace) -> int:
    print(describe(_skeleton(args.model)))
    return 0


def describe(model: Any) -> str:
    """The family, the projector's layers, and the cost of one visual token scored and dropped."""
    from .families import family_of

    family = family_of(model)
    projector = family.describe(model.get_submodule(family.projector))
    layers = sum(p.numel() for p in model.get_submodule(family.language_model).layers.parameters())
    hidden = projector.linear_1.out_features
    matrices = 1 if projector.norm is None else projector.patches + 1
    lines = [
        f"model       {type(model).__name__} ({type(family).__name__})",
        f"projector   {family.projector}: {projector.describe()}",
        f"metric      {matrices} x [{hidden}, {hidden}]",
        f"scoring     {projector.flops() / 1e6:.0f} MFLOP for each visual token",
        f"prefill     {2 * layers / 1e6:.0f} MFLOP for each token that is dropped, attention aside",
    ]
    if projector.is_linear:
        lines[2:4] = ["scoring     none: a linear projector, selection by diversity only"]
    return "\n".join(lines)


def _skeleton(directory: str) -> Any:
    """The model without weights; UsageError where there is none."""
    if not (Path(directory) / "config.json").is_file():
        raise UsageError(f"MODEL: expected a directory with a config.json, got {directory}")
    try:
        from transformers import AutoConfig, AutoModelForImageTextToText
    except ImportError as error:
        raise UsageError("transformers is missing: pip install 'zoprune_kernels[hf]'") from error
    try:
        config = AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except ValueError as error:
        raise UsageError(f"MODEL: {str(error).splitlines()[0]}") from error
