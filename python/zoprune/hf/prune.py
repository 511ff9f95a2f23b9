"""``prune`` and ``restore``: the public face of model-level pruning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoprune_kernels.methods import ScoreOptions, SelectOptions

from ..budgets import as_keep
from ..estimator import refuse
from ..projector import Estimator, check_linear, prepare
from ..selection import Rule
from ..video import RULES
from . import compat
from .families import Family, unwrap
from .generation import methods
from .hooks import Method, hook, unhook
from .settings import Pruning, parts_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .. import choices

Model = TypeVar("Model")


def prune(
    model: Model,
    keep: int | float,
    *,
    per: choices.Per = "image",
    estimator: choices.Estimation = "closed",
    num_directions: int = ScoreOptions.num_directions,
    step: float = ScoreOptions.step,
    distribution: choices.Distribution = ScoreOptions.distribution,
    seed: int = ScoreOptions.seed,
    through_norm: bool = True,
    method: choices.Method = SelectOptions.method,
    max_similarity: float = SelectOptions.max_similarity,
    prompt_seeds: int = 0,
    positions: choices.Positions | None = None,
    video: choices.Video | None = None,
    metric: str | Path | None = None,
    full_logits: bool = False,
    **options: Unpack[choices.MethodOptions],
) -> Model:
    """Make a Hugging Face VLM keep only some of its visual tokens, in place; returns the model.

    If an argument is refused, nothing has changed: a model that was pruned before still is.

    Args:
        model: one of ``zoprune.hf.families.SUPPORTED``, or what peft, ``torch.compile``,
            DistributedDataParallel or the like made of one.
        keep: visual tokens to keep, a count or a ratio in (0, 1] given as a float: 1 is one token,
            1.0 all of them. numpy's and torch's scalars are taken as what they are.
        per: what ``keep`` counts over: "image" (an image or a video), "call" (all images of a
            call, and all its videos), or "crop" or "frame" where the architecture has them.
        estimator: "closed" (root mean square over all directions, no sampling) or "directions"
            (the paper's estimate, with num_directions, step, distribution and seed).
        through_norm: with a norm in the projector and the closed form, perturb before the norm.
        method, max_similarity: the selection, see ``zoprune_kernels.score_and_select``.
        options: what else the method takes there: ``tradeoff`` of "mmr", ``rule``, ``threshold``
            and the others of "suppress" (by similarity alone), ``first``, ``centre`` and so on.
        prompt_seeds: first keep this many tokens of each image, those most similar to the prompt.
        positions: "compact" (as if the tokens had never been there) or "original" (gaps stay).
            Default: what the architecture needs, original for multimodal rotary positions.
        video: how tokens of videos are picked. None: as those of images. "evs": the first frame,
            and what differs most from the frame before. "vidcom2": frame by frame, more of frames
            that are unlike the video, those unlike both. "budget": VidCom2's counts for the frames,
            in each by ``method`` (docs/tokens.md, "Videos").
        metric: a safetensors file with the folded metric; written when it does not exist.
        full_logits: ``forward`` returns logits for all columns of the full prompt, where a dropped
            column has those of the kept one before it: for losses and metrics that compare logits
            with labels outside of the model (label smoothing, ``compute_metrics``).

    Raises:
        TypeError: the architecture is not supported.
        ValueError: an argument is out of range, ``metric`` belongs to other weights, or a layer of
            the projector cannot be run.

    Example::

        model = LlavaForConditionalGeneration.from_pretrained("llava-hf/llava-1.5-7b-hf")
        zoprune.prune(model, keep=64)  # of 576; keep=1 / 9 is the same as a ratio
        model.generate(**inputs)
    """
    inner, family = unwrap(model)
    core = compat.core_of(inner)
    keep = as_keep(keep)
    if per not in ("image", "call", family.groups):
        known = "'image'" + (f" or '{family.groups}'" if family.groups else "")
        raise ValueError(
            f"zoprune: per: expected {known}, got '{per}' ('call': over all images of a call)"
        )
    positions = family.layouts[0] if positions is None else positions
    if positions not in family.layouts:
        raise ValueError(
            f"zoprune: positions: expected one of {', '.join(family.layouts)}, got '{positions}'"
        )
    if not isinstance(full_logits, bool):
        raise ValueError(f"zoprune: full_logits: expected True or False, got {full_logits!r}")
    check_video(video, family, per, prompt_seeds, type(inner).__name__)
    how = Estimator(estimator, num_directions, step, distribution, seed, through_norm)
    rule = Rule(method, max_similarity, prompt_seeds, options)
    modules = family.modules(core)
    projector = family.describe(*modules)
    if projector.is_linear:
        check_linear(method)
    prepare(projector, how, rule, metric)
    described = (parts_of(modules), projector)
    pruning = Pruning(family, keep, per, how, rule, positions, full_logits, video, described)
    restore(inner)
    vars(inner)["_zoprune"] = pruning
    if core is not inner:
        vars(core).setdefault("_zoprune", []).append(pruning)
    hook(inner, core, family)
    vars(inner).update(methods(inner))
    return model


def check_video(video: object, family: Family, per: str, prompt_seeds: int, name: str) -> None:
    """ValueError for a ``video`` that is none, or that another argument contradicts."""
    if video is None:
        return
    if video not in RULES:
        choices = ", ".join(f"'{rule}'" for rule in RULES)
        refuse("video", f"None or one of {choices}", repr(video))
    if "video" not in family.inputs or family.groups != "frame":
        refuse("video", f"None for {name}, which takes no videos of several frames", repr(video))
    if per not in ("image", "call"):
        refuse("per", f"'image' or 'call' with video='{video}'", repr(per))
    if prompt_seeds:
        refuse("prompt_seeds", f"0 with video='{video}'", repr(prompt_seeds))


def restore(model: Model) -> Model:
    """Undo ``prune``; a model that is not pruned stays as it is. Returns the model.

    Another outer model around the same inner one (``copy.copy``) stays pruned.

    Args:
        model: what ``prune`` was given, however it has been wrapped since.

    Raises:
        TypeError: the architecture is not supported.

    Example::

        zoprune.prune(model, keep=64)
        zoprune.restore(model)  # generate() and forward() as they were
    """
    inner, _ = unwrap(model)
    core = compat.core_of(inner)
    pruning = vars(inner).pop("_zoprune", None)
    if pruning is None:
        return model
    copied = False  # a shallow copy shares the settings of the model that it was made of
    for name, method in list(vars(inner).items()):
        if isinstance(method, Method):
            copied = method.model is not inner
            del vars(inner)[name]
            if method.previous is not None:
                vars(inner)[name] = method.previous
    on_core = vars(core).get("_zoprune", [])
    if not copied:
        on_core[:] = [p for p in on_core if p is not pruning]
    if not on_core:
        vars(core).pop("_zoprune", None)
        unhook(inner, *core.modules())
    return model
