"""Prune a picture's visual tokens: what a model still answers, and which patches were kept.

Without a photo, a small trained model (7 MB, in the package) answers questions about a picture
that it has never seen, with all 576 visual tokens, with --keep and with a quarter of that. Prints
answers and times and writes one picture of all three.

With --model, a Hugging Face checkpoint answers the --prompt about a photo with all visual tokens
and with --keep of them: the answers, the times, and a picture of what was kept.

With a photo alone there is no model to ask. Cuts the photo into 576 patches (336 x 336 pixels,
LLaVA-1.5's geometry), keeps the most useful ones in two ways, prints how long each took and how
far they agree, and writes one picture: the photo, the sensitivity map and the patches that each
way keeps.

  paper-literal   ZOO-Prune (arXiv 2509.24837) as written, in plain PyTorch; with --literal only:
                  it takes a minute where the others take less than a second
  rewritten       the same score, differenced before the projector's second layer
  closed form     the root mean square over all directions, with no sampling

No pretrained weights are involved: a fixed descriptor of the pixels stands in for the vision
tower, and random weights of LLaVA-1.5's shape (1024 -> 4096 -> 4096) for the projector.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import photo as photos
from .errors import UsageError, need
from .options import KEEP, METHODS, add_json, budget, print_json, within
from .progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from .comparison import Outcome

SUMMARY = "answer with few visual tokens, or prune a photograph's, and draw what was kept"
LITERAL = "paper-literal"
TOKENS = 576
PROMPT = "What is in the picture?"
PATCH_PIXELS = 25  # of the picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``zoprune demo``."""
    parser.add_argument(
        "photo", nargs="?", help="an image file (default: the picture of the trained model)"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a checkpoint that answers the prompt: a directory, or a name on the hub",
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help=f"with --model (default: {PROMPT})", default=PROMPT
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=60,
        metavar="N",
        help="with --model, length of an answer, at most (default: 60)",
    )
    parser.add_argument(
        "--keep",
        default="64",
        metavar="K",
        help=f"tokens to keep: {KEEP}; for a model also several, 64,16; default: 64",
    )
    parser.add_argument(
        "--per",
        metavar="UNIT",
        help="with --model, what --keep counts over: image, call, or the model's crop or frame "
        "(default: image)",
    )
    parser.add_argument(
        "--out", default="kept.png", metavar="PNG", help="the picture (default: kept.png)"
    )
    parser.add_argument(
        "--method",
        default="sads",
        choices=METHODS,
        help="how tokens are chosen from their scores (default: sads, the paper's)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of tokens and projector; in bfloat16 the paper-literal form cancels "
        "(default: float32; with --model, the checkpoint's)",
    )
    parser.add_argument(
        "--directions",
        type=int,
        default=64,
        metavar="M",
        help="random directions per token, m (default: 64, the paper's)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the projector and the directions (default: 0)"
    )
    parser.add_argument(
        "--literal", action="store_true", help="also run the paper-literal form, which is slow"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the comparison and write the picture; returns 0."""
    _check(args)
    if args.model:
        need("--model", "demo,hf", "numpy", "PIL", "transformers", "safetensors")
        from . import model_demo

        return model_demo.run(args)
    args.dtype = args.dtype or "float32"
    if _trained(args):
        need("the demo", "demo", "numpy", "PIL", "torch", "transformers", "safetensors")
        from . import trained_demo

        return trained_demo.run(args)
    whole = photos.open_photo(args.photo)
    photo = photos.centre(whole, 1, 1)
    need("the demo", "demo", "numpy", "torch")

    name = Path(args.photo).name if args.photo else f"{photos.DEFAULT} (scikit-image)"
    cut = photos.crop_note(whole, photo)
    if not args.json:
        print(
            f"Keeping {args.keep} of {TOKENS} visual tokens of {name}",
            *filter(None, [cut]),
            sep="\n",
        )
        print(
            "No pretrained weights: a descriptor of the pixels and a projector with random weights"
        )
        print("of LLaVA-1.5's shape (1024 -> 4096 -> 4096) stand in for a model's.\n", flush=True)
    outcomes, truth = _outcomes(args, photo)
    setting = _setting(args)
    if not args.json:
        print(f"\n{_table(outcomes, truth)}\n\n{setting}", flush=True)

    picture = _picture(photo, outcomes, truth, args.keep, setting)
    photos.save(picture, args.out)
    if args.json:
        print_json(_facts(args, whole, photo, outcomes, truth))
    else:
        print(f"Wrote {args.out} ({picture.width} x {picture.height} pixels)")
    return 0


def _trained(args: argparse.Namespace) -> bool:
    """Whether the trained model is asked; what it has no use for is for the stand-ins."""
    of_stand_ins = args.literal or args.directions != 64 or args.seed != 0
    return not (args.model or args.photo or of_stand_ins)


def _check(args: argparse.Namespace) -> None:
    """All that can be known before the work starts."""
    args.keeps = [budget(k, None if args.model else TOKENS) for k in args.keep.split(",")]
    if len(args.keeps) > 1 and not args.model and not _trained(args):
        raise UsageError(f"--keep: expected one budget without --model, got '{args.keep}'")
    if not args.model:
        keep = args.keeps[0]
        args.keep = keep if isinstance(keep, int) else max(round(keep * TOKENS), 1)
    within("--max-new-tokens", args.max_new_tokens, 1, 65536)
    within("--directions", args.directions, 1, 65536)
    within("--seed", args.seed, 0, 2**63 - 1)
    for argument, given, with_model in (
        ("--directions", args.directions != 64, False),
        ("--seed", args.seed != 0, False),
        ("--literal", args.literal, False),
        ("--prompt", args.prompt != PROMPT, True),
        ("--per", args.per is not None, True),
    ):
        if given and with_model != bool(args.model):
            raise UsageError(f"{argument}: expected it {'' if with_model else 'not '}with --model")
    out = Path(args.out)
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out: expected a file name ending in .png, got '{out}'")
    if not out.parent.is_dir():
        raise UsageError(f"--out: expected an existing folder, got '{out.parent}'")
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise UsageError(f"--out: expected a file that can be written, got '{out}'")


def _facts(
    args: argparse.Namespace, whole: Image, photo: Image, outcomes: list[Outcome], truth: Outcome
) -> dict[str, Any]:
    """What the table says, as an object for ``--json``."""
    from .comparison import agreement

    methods = []
    for outcome in outcomes:
        agree = agreement(outcome, truth)
        methods.append(
            {
                "name": outcome.name,
                "seconds": outcome.seconds,
                "kept": outcome.indices.tolist(),
                "same_tokens": agree.same,
                "spearman": agree.spearman,
            }
        )
    return {
        "photo": args.photo or photos.DEFAULT,
        "size": whole.size,
        "cropped_to": photo.size,
        "weights": "random stand-ins",
        "tokens": TOKENS,
        "keep": args.keep,
        "method": args.method,
        "compared_with": truth.name,
        "outcomes": methods,
        "setting": _setting(args),
        "picture": args.out,
    }


def _outcomes(args: argparse.Namespace, photo: Image) -> tuple[list[Outcome], Outcome]:
    """Each method's result, slowest first, and the one that all are compared with.

    That is the paper-literal one in float32; where it is not there, the rewritten one in float32,
    which is the same function. In bfloat16 the paper-literal form is no truth: it cancels.
    """
    import torch

    import zoprune_kernels as kernels

    from . import standins
    from .comparison import paper_literal, stopwatch, timed

    m, options = args.directions, {"method": args.method, "seed": args.seed}
    dtype = getattr(torch, args.dtype)
    x = standins.describe(photo).to(dtype)
    projector = standins.random_projector(args.seed, dtype)
    directions = kernels.directions(m, standins.DIM, seed=args.seed, dtype=dtype)

    step = Progress("folding the metric")
    metric, seconds = stopwatch(lambda: kernels.fold_metric(projector.w1, projector.w2))
    step.finish(f"{_duration(seconds)}, once per model")

    step = Progress("closed form")
    closed = timed(
        "closed form",
        lambda: kernels.score_and_select(x, *projector, args.keep, metric=metric, **options),
        repeats=5,
    )
    step.finish(_duration(closed.seconds))

    step = Progress(f"rewritten, m = {m}")
    rewritten = timed(
        f"rewritten, m = {m}",
        lambda: kernels.score_and_select(
            x, *projector, args.keep, directions=directions, **options
        ),
    )
    step.finish(_duration(rewritten.seconds))
    outcomes, truth = [rewritten, closed], rewritten

    if args.dtype != "float32":
        step = Progress("rewritten, float32")
        exact = standins.StandIn(*(weight.float() for weight in projector))
        truth = timed(
            "rewritten in float32",
            lambda: kernels.score_and_select(
                x.float(), *exact, args.keep, directions=directions.float(), **options
            ),
        )
        step.finish(f"{_duration(truth.seconds)}, to compare with")

    if args.literal:
        step = Progress(f"{LITERAL}, m = {m}", m)
        literal = timed(
            LITERAL,
            lambda: paper_literal(x, projector, directions, args.keep, progress=step, **options),
        )
        step.finish(_duration(literal.seconds))
        outcomes = [literal, *outcomes]
        if args.dtype == "float32":
            truth = literal
    return outcomes, truth


def _table(outcomes: list[Outcome], truth: Outcome) -> str:
    from .comparison import agreement

    rows = [f"  {'':<18}{'time':>10}{'speed':>10}{'same tokens':>16}{'Spearman':>12}"]
    for outcome in outcomes:
        same, spearman = "-", "-"
        if outcome is not truth:
            agree = agreement(outcome, truth)
            same = f"{agree.same} of {len(outcome.indices)}"
            spearman = f"{agree.spearman:.4f}"
        ratio = _ratio(outcomes[0].seconds / outcome.seconds)
        rows.append(
            f"  {outcome.name:<18}{_duration(outcome.seconds):>10}{ratio:>10}{same:>16}"
            f"{spearman:>12}"
        )
    speed = "" if outcomes[0] is truth else f" (speed: with {outcomes[0].name})"
    rows.append(f"\nCompared with {truth.name}{speed}.")
    return "\n".join(rows)


def _setting(args: argparse.Namespace) -> str:
    import torch

    from .comparison import STEP

    return (
        f"{TOKENS} tokens, projector 1024 -> 4096 -> 4096 (GELU), m = {args.directions} "
        f"directions, h = {STEP}, {args.dtype}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )


def _picture(
    photo: Image, outcomes: list[Outcome], truth: Outcome, keep: int, setting: str
) -> Image:
    from . import pictures, standins

    grid = (standins.GRID, standins.GRID)
    side = standins.GRID * PATCH_PIXELS
    slowest, closed = outcomes[0], outcomes[-1]
    panels = [
        pictures.Panel("Photo", "24 by 24 patches, one token each", photo.resize((side, side))),
        pictures.Panel(
            "Sensitivity",
            "of each token, closed form",
            pictures.sensitivity_map(photo, closed.scores.tolist(), grid, PATCH_PIXELS),
            pictures.color_bar(220),
        ),
    ]
    if slowest.name == LITERAL:
        bars = [
            pictures.Bar(
                outcome.name,
                outcome.seconds,
                _duration(outcome.seconds),
                ""
                if outcome is slowest
                else f"{_ratio(slowest.seconds / outcome.seconds)} the speed",
            )
            for outcome in outcomes
        ]
        chart = pictures.bar_chart(bars, side)
        panels.append(pictures.Panel("Time", "to score and select", chart))
    for outcome in outcomes:
        kept = outcome.indices.tolist()
        others = sorted(set(kept) - set(truth.indices.tolist()))
        caption = _duration(outcome.seconds)
        if outcome is not truth:
            caption += f", {keep - len(others)} of {keep} the same"
        if others:
            caption += " (others framed)"
        image = pictures.kept_patches(photo, kept, grid, PATCH_PIXELS, marked=others)
        panels.append(pictures.Panel(outcome.name.capitalize(), caption, image))
    sheet = pictures.sheet(
        f"{keep} of {TOKENS} tokens, by a random stand-in",
        "ZOO-Prune keeps the tokens that the projector is most sensitive to "
        "and that differ most from each other.",
        panels,
        f"Compared with {truth.name}. {setting}. No pretrained weights: a pixel descriptor and a "
        "random projector stand in.",
        columns=len(outcomes),
    )
    return pictures.with_palette(sheet)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"
