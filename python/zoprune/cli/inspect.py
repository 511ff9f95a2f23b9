"""Show the projector of a Hugging Face model and what scoring its tokens costs.

MODEL is a checkpoint's directory; only its config.json is read, no weights. The times are measured
on this machine, in float32, on random weights of the model's shapes.
"""

from __future__ import annotations

import argparse
from typing import Any

from .errors import UsageError
from .progress import Progress

SUMMARY = "show a model's projector and the cost of scoring"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a checkpoint's directory")
    parser.add_argument(
        "--tokens",
        type=int,
        default=576,
        metavar="N",
        help="visual tokens of an image, for the times (default: 576)",
    )
    parser.add_argument(
        "--keep", type=int, default=64, metavar="K", help="of which are kept (default: 64)"
    )


def run(args: argparse.Namespace) -> int:
    from .checkpoint import skeleton

    if not 1 <= args.keep <= args.tokens:
        raise UsageError(f"--keep: expected a number from 1 to {args.tokens}, got {args.keep}")
    model = skeleton(args.model)
    try:
        print(describe(model))
    except TypeError as error:
        raise UsageError(str(error).removeprefix("zoprune: ")) from error
    print(times(model, args.tokens, args.keep))
    return 0


def describe(model: Any) -> str:
    """The family, the projector's layers, and the cost of one visual token scored and dropped."""
    from ..hf.families import family_of

    family = family_of(model)
    projector = family.describe(model.get_submodule(family.projector))
    layers = model.get_submodule(family.language_model).layers
    hidden = projector.linear_1.out_features
    matrices = 1 if projector.norm is None else projector.patches + 1
    lines = [
        f"model       {type(model).__name__} ({type(family).__name__})",
        f"projector   {family.projector}: {projector.describe()}",
        f"metric      {matrices} x [{hidden}, {hidden}]",
        f"scoring     {projector.flops() / 1e6:.0f} MFLOP for each visual token",
        f"prefill     {2 * _size(layers) / 1e6:.0f} MFLOP for each token that is dropped, "
        "attention aside",
    ]
    if projector.is_linear:
        lines[2:4] = ["scoring     none: a linear projector, selection by diversity only"]
    return "\n".join(lines)


def times(model: Any, tokens: int, keep: int) -> str:
    """Milliseconds to score and select, and of the prefill with and without the dropped tokens."""
    from . import costs

    step = Progress("measuring")
    score, select = costs.pruning(model, tokens, keep)
    full, pruned = costs.prefill(model, tokens), costs.prefill(model, keep)
    step.finish("done")
    spent, saved = score + select, full - pruned
    return "\n".join(
        [
            f"time        {1e3 * score:.1f} ms to score {tokens} tokens, "
            f"{1e3 * select:.1f} ms to select {keep}",
            f"saved       {1e3 * saved:.0f} ms of {1e3 * full:.0f} ms of prefill, "
            f"{saved / spent:.0f} times what was spent",
            f"            {costs.setting(model)}",
        ]
    )


def _size(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
