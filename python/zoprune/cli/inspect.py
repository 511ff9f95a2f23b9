"""Show the projector of a Hugging Face model and what scoring its tokens costs.

MODEL is a checkpoint's directory, or its name on the hub; only its config.json is read, no weights.
The times are measured on this machine, in float32, on random weights of the model's shapes.
"""

from __future__ import annotations

import argparse
from typing import Any

from .errors import UsageError, first_line
from .options import KEEP, add_json, budget, print_json, within
from .progress import Progress

SUMMARY = "show a model's projector and the cost of scoring"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a checkpoint's directory or hub name")
    parser.add_argument(
        "--tokens",
        type=int,
        default=576,
        metavar="N",
        help="visual tokens of an image, for the times (default: 576)",
    )
    parser.add_argument(
        "--keep", default="64", metavar="K", help=f"of which are kept: {KEEP}; default: 64"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    within("--tokens", args.tokens, 1, 2**20)
    keep = budget(args.keep, args.tokens)
    from ..budgets import tokens_of
    from .checkpoint import skeleton

    model = skeleton(args.model)
    try:
        found = facts(model)
    except (TypeError, ValueError) as error:
        raise UsageError(first_line(error).removeprefix("zoprune: ")) from error
    if not args.json:
        print(describe(found), flush=True)
    measured = times(model, args.tokens, tokens_of(keep, args.tokens))
    if args.json:
        print_json(found | {"times": measured})
    else:
        print(describe_times(measured))
    return 0


def facts(model: Any) -> dict[str, Any]:
    """The family, the projector's layers, and the cost of one visual token scored and dropped."""
    from ..hf import compat
    from ..hf.families import family_of

    family = family_of(model)
    projector = family.describe(*family.modules(compat.core_of(model)))
    layers = model.get_submodule(family.language_model).layers
    hidden = projector.linear_1.out_features
    return {
        "model": type(model).__name__,
        "family": type(family).__name__,
        "projector": {"name": family.projector, "layers": projector.describe()},
        "linear": projector.is_linear,
        "metric": [1 if projector.norm is None else projector.patches + 1, hidden, hidden],
        "scoring_flop_per_token": projector.flops(),
        "prefill_flop_per_token": 2 * sum(p.numel() for p in layers.parameters()),
        "per": ["image", "call", *filter(None, [family.groups])],
    }


def describe(found: dict[str, Any]) -> str:
    """What ``facts`` found, in lines."""
    count, hidden, _ = found["metric"]
    scoring = [
        f"metric      {count} x [{hidden}, {hidden}]",
        f"scoring     {found['scoring_flop_per_token'] / 1e6:.0f} MFLOP for each visual token",
    ]
    if found["linear"]:
        scoring = ["scoring     none: a linear projector, selection by diversity only"]
    return "\n".join(
        [
            f"model       {found['model']} ({found['family']})",
            f"projector   {found['projector']['name']}: {found['projector']['layers']}",
            *scoring,
            f"prefill     {found['prefill_flop_per_token'] / 1e6:.0f} MFLOP for each token that is "
            "dropped, attention aside",
            f"keep per    {', '.join(found['per'])}",
        ]
    )


def times(model: Any, tokens: int, keep: int) -> dict[str, Any]:
    """Seconds to score and select, and of the prefill with and without the dropped tokens."""
    from . import costs

    step = Progress("measuring")
    score, select = costs.pruning(model, tokens, keep)
    full, pruned = costs.prefill(model, tokens), costs.prefill(model, keep)
    step.finish("done")
    return {
        "tokens": tokens,
        "keep": keep,
        "score_seconds": score,
        "select_seconds": select,
        "prefill_seconds": full,
        "pruned_prefill_seconds": pruned,
        "setting": costs.setting(model),
    }


def describe_times(measured: dict[str, Any]) -> str:
    score, select = measured["score_seconds"], measured["select_seconds"]
    full = measured["prefill_seconds"]
    saved = full - measured["pruned_prefill_seconds"]
    return "\n".join(
        [
            f"time        {1e3 * score:.1f} ms to score {measured['tokens']} tokens, "
            f"{1e3 * select:.1f} ms to select {measured['keep']}",
            f"saved       {1e3 * saved:.0f} ms of {1e3 * full:.0f} ms of prefill, "
            f"{saved / (score + select):.0f} times what was spent",
            f"            {measured['setting']}",
        ]
    )
