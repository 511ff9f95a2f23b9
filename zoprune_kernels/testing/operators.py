"""``certify``: a call of any operator against the definitions in float64."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import philox, reference
from ..methods import SelectOptions, SuppressOptions, in_python
from .certificates import (
    certify_coverage,
    certify_dpp,
    certify_select,
    certify_suppress,
)
from .check import Check, relative_error

Arguments = Mapping[str, Any]

# Bounds on the relative error of a score, by the dtype of the model (``score_tolerance``).
SCORE_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}
# Hidden units from which on roundings average out to SCORE_TOLERANCE on every device.
_WIDE = 1024
# Rounding the metric to bf16 alone costs up to 2^-8 = 3.9e-3.
METRIC_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 1e-3}
# The hidden layer and the outputs are each rounded to the model's dtype.
TOKEN_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
# Keys that an operator computes itself are rounded to the model's dtype, which moves a cosine.
OWN_KEYS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}
DIRECTION_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
# fp32 and fp64 may give a token whose two nearest are equally near to different ones.
DIFFERENT_ROWS = 0.02


def certify(op: str, arguments: Arguments, result: Any) -> list[Check]:
    """Compares a result with what the operator's definition allows.

    ``arguments`` are all of the call's, by name, with defaults (``testing.call`` makes them);
    ``result`` is what the operator returned. Raises KeyError for an operator without a check.
    """
    return _CHECKS[op](arguments, result)


def _options(certificate: Callable[..., Check], arguments: Arguments) -> dict[str, Any]:
    """The options of a selection that its objective reads."""
    given = in_python(arguments)
    options: dict[str, Any] = {"in_order": not arguments.get("sort", True)}
    if certificate is certify_select:
        options |= vars(SelectOptions.of(given)) | {"seed": arguments.get("seed", 0)}
    if certificate is certify_suppress:
        options |= vars(SuppressOptions.of(given))
    return options


def _selecting(
    certificate: Callable[..., Check], **tolerance: float
) -> Callable[[Arguments, Tensor], list[Check]]:
    """The check of a selection of [N] or [B, N] by the certificate of its method."""
    parameters = inspect.signature(certificate).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]

    def check(arguments: Arguments, picks: Tensor) -> list[Check]:
        given = {name: arguments[name] for name in names if name in arguments}
        return [certificate(picks, **given, **_options(certificate, arguments), **tolerance)]

    return check


def _packed(
    check: Callable[[Arguments, Any], list[Check]], tokens: str
) -> Callable[[Arguments, Any], list[Check]]:
    """The check of a packed call, by those of its images; ``tokens`` names an argument [T, ...]."""

    def each(arguments: Arguments, result: Any) -> list[Check]:
        found = [
            one
            for image, part in _images(arguments, result, len(arguments[tokens]))
            for one in check(image, part)
        ]
        return found or [Check("nothing kept", 0.0, 0.0)]

    return each


def _images(arguments: Arguments, result: Any, total: int) -> Iterator[tuple[Arguments, Any]]:
    """Arguments and results of the images of a packed call that keep anything."""
    starts, keeps = arguments["cu_tokens"].tolist(), arguments["cu_keep"].tolist()
    parts = result if isinstance(result, tuple) else (result,)
    for b in range(len(starts) - 1):
        tokens, kept = slice(starts[b], starts[b + 1]), slice(keeps[b], keeps[b + 1])
        if kept.start == kept.stop:
            continue

        def of_image(value: Any, tokens: slice = tokens) -> Any:
            packed = isinstance(value, Tensor) and value.dim() and len(value) == total
            return value[tokens] if packed else value

        image = {name: of_image(value) for name, value in arguments.items()}
        for weights in ("w1", "b1", "w2", "b2", "metric", "directions"):
            if weights in arguments:
                image[weights] = arguments[weights]
        if "indices" in arguments:
            image["indices"] = arguments["indices"][kept] - tokens.start
        own = []
        for part in parts:
            if part.dtype == torch.int64:
                own.append(part[kept] - tokens.start)
            else:
                own.append(part[tokens] if len(part) == total else part[kept])
        yield image, tuple(own) if isinstance(result, tuple) else own[0]


def _double(arguments: Arguments, *names: str) -> Iterator[Any]:
    """Arguments in float64; None stays."""
    return (None if arguments.get(n) is None else arguments[n].double() for n in names)


def _directions(arguments: Arguments, num: int, dim: int, device: torch.device) -> Tensor:
    return philox.directions(num, dim, arguments["distribution"], arguments["seed"], device)


def _check_directions(arguments: Arguments, got: Tensor) -> list[Check]:
    want = _directions(arguments, arguments["num"], arguments["dim"], got.device)
    error = float((got.double() - want.double()).abs().max())
    return [Check("directions", error, DIRECTION_TOLERANCE[got.dtype])]


def _check_sensitivity(arguments: Arguments, got: Tensor) -> list[Check]:
    x, w1, b1, w2, directions = _double(arguments, "x", "w1", "b1", "w2", "directions")
    want = reference.sensitivity(
        x, w1, b1, w2, directions, step=arguments["step"], activation=arguments["activation"]
    )
    return [_scores(got, want, arguments)]


def _check_expected(arguments: Arguments, got: Tensor) -> list[Check]:
    x, w1, b1, metric = _double(arguments, "x", "w1", "b1", "metric")
    want = reference.expected_sensitivity(x, w1, b1, metric, activation=arguments["activation"])
    return [_scores(got, want, arguments)]


def score_tolerance(
    dtype: torch.dtype, hidden: int, device: str, multiplied: torch.dtype | None = None
) -> float:
    """The bound on the relative error of a score.

    A score is a norm over the hidden units, in which their roundings average out. With few units
    the CPU multiplies in float32; a GPU rounds to bfloat16 all the same: a score is off by no more
    than one such rounding, 2^-8 (docs/kernels.md, "Accuracy").

    Args:
        dtype: the model's.
        hidden: how many hidden units its projector has.
        device: "cpu" or "cuda".
        multiplied: what the last product's factors are rounded to: the metric's dtype, else the
            model's.
    """
    if device == "cuda" and hidden < _WIDE and (multiplied or dtype) == torch.bfloat16:
        return 2.0**-8
    return SCORE_TOLERANCE[dtype]


def _scores(got: Tensor, want: Tensor, arguments: Arguments) -> Check:
    metric = arguments.get("metric")
    multiplied = None if metric is None else metric.dtype
    hidden = arguments["w1"].shape[0]
    tolerance = score_tolerance(arguments["x"].dtype, hidden, got.device.type, multiplied)
    return Check("scores", relative_error(got.flatten(), want.flatten()), tolerance)


def _check_fold(arguments: Arguments, got: Tensor) -> list[Check]:
    w1, w2, directions = _double(arguments, "w1", "w2", "directions")
    want = reference.fold_metric(w1, w2, directions)
    return [Check("metric", relative_error(got, want), METRIC_TOLERANCE[got.dtype])]


def _check_pruned(arguments: Arguments, result: tuple[Tensor, ...]) -> list[Check]:
    """score_and_select's (indices, scores), or project_and_select's with tokens before them."""
    *tokens, indices, scores = result
    x, w1, b1, w2, b2 = _double(arguments, "x", "w1", "b1", "w2", "b2")
    dtype = arguments["x"].dtype
    outputs = reference.project(x, w1, b1, w2, b2, arguments["activation"])
    if arguments.get("metric") is not None:
        checks = _check_expected(arguments, scores)
    else:
        directions = arguments.get("directions")
        if directions is None:
            directions = _directions(arguments, arguments["num_directions"], x.shape[-1], x.device)
        checks = _check_sensitivity({**arguments, "directions": directions}, scores)
    own = arguments.get("keys") is None
    certificate, first = _SELECTIONS.get(f"select_{arguments['method']}", _SELECTIONS["select"])
    given = {**arguments, first: scores, "keys": outputs if own else arguments["keys"]}
    tolerance = {"tolerance": OWN_KEYS_TOLERANCE[dtype]} if own else {}
    checks += _selecting(certificate, **tolerance)(given, indices)
    if tokens and math.isfinite(checks[-1].error):
        index = indices[..., None].expand(*indices.shape, outputs.shape[-1])
        error = relative_error(tokens[0], outputs.gather(-2, index))
        checks.append(Check("tokens", error, TOKEN_TOLERANCE[dtype]))
    return checks


def _by_rows(what: str, got: Tensor, want: Tensor) -> Check:
    """The share of rows that differ: a tie may give a token to another one."""
    tolerance = TOKEN_TOLERANCE[got.dtype]
    error = (got.double() - want).norm(dim=-1) / want.norm(dim=-1).clamp_min(1e-30)
    return Check(what, float((~(error <= tolerance)).double().mean()), DIFFERENT_ROWS)


def _check_merge(arguments: Arguments, result: tuple[Tensor, Tensor]) -> list[Check]:
    tokens, keys, indices = (arguments[n] for n in ("tokens", "keys", "indices"))
    weights, valid = arguments.get("weights"), arguments.get("valid")
    merged, sizes = result
    if tokens.dim() == 3:
        images: list[tuple[Any, ...]] = [
            (tokens[b], keys[b], indices[b], _row(weights, b), _row(valid, b))
            for b in range(len(tokens))
        ]
    else:
        images = [(tokens, keys, indices, weights, valid)]
        merged, sizes = merged[None], sizes[None]
    checks = []
    for image, got, size in zip(images, merged, sizes, strict=True):
        t, z, index, w, v = image
        want = reference.merge(
            t.double(), z.double(), index, _doubled(w), v, rule=arguments["rule"]
        )
        checks.append(_by_rows("share of merged tokens", got, want[0]))
        given = size.double().sum() - want[1].sum()
        checks.append(Check("sizes", float(given.abs() / want[1].sum().abs()), 1e-2))
    return checks


def _row(value: Tensor | None, row: int) -> Tensor | None:
    return None if value is None else value[row]


def _doubled(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.double()


def _check_bipartite(arguments: Arguments, result: tuple[Tensor, ...]) -> list[Check]:
    tokens, keys, sizes = arguments["tokens"], arguments["keys"], arguments["sizes"]
    if tokens.dim() == 2:
        tokens, keys, sizes = tokens[None], keys[None], sizes if sizes is None else sizes[None]
        result = tuple(part[None] for part in result)
    checks = []
    for b in range(len(tokens)):
        got, size, stays = (part[b] for part in result)
        t, z, w = tokens[b].double(), keys[b].double(), _doubled(_row(sizes, b))
        want, want_size, want_stays = reference.merge_bipartite(t, z, arguments["count"], w)
        same = stays == want_stays
        checks.append(Check("share of indices", float((~same).double().mean()), DIFFERENT_ROWS))
        checks.append(_by_rows("share of merged tokens", got[same], want[same]))
        lost = size.double() @ got.double() - want_size @ want
        error = float(lost.norm() / (want_size @ want).norm())
        checks.append(Check("sum of tokens", error, TOKEN_TOLERANCE[got.dtype]))
    return checks


def _check_budget(arguments: Arguments, got: Tensor) -> list[Check]:
    names = "weights total capacity rule temperature minimum".split()
    given = {name: arguments[name] for name in names}
    given["weights"] = given["weights"].double()
    want = reference.budget(**given).diff()
    counts = got.diff()
    over = counts.sum() != want.sum() or int(got[0]) != 0
    error = math.inf if over else float((counts - want).abs().max())
    return [Check("counts", error, 1)]


def _check_compact(arguments: Arguments, got: list[Tensor]) -> list[Check]:
    want = reference.compact(arguments["tensors"], arguments["indices"], arguments["dims"])
    equal = all(torch.equal(mine, theirs) for mine, theirs in zip(got, want, strict=True))
    return [Check("kept rows", 0.0 if equal else math.inf, 0.0)]


def _check_frame_change(arguments: Arguments, got: Tensor) -> list[Check]:
    rest = {name: value for name, value in arguments.items() if name != "x"}
    want = reference.frame_change(arguments["x"].double(), **rest)
    error = float((got.double() - want).abs().max())
    return [Check("change of frames", error, SCORE_TOLERANCE[arguments["x"].dtype])]


_SELECTIONS: dict[str, tuple[Callable[..., Check], str]] = {
    "select": (certify_select, "scores"),
    "select_dpp": (certify_dpp, "quality"),
    "select_suppress": (certify_suppress, "scores"),
    "select_coverage": (certify_coverage, "scores"),
}
_CHECKS: dict[str, Callable[[Arguments, Any], list[Check]]] = {
    "directions": _check_directions,
    "sensitivity": _check_sensitivity,
    "fold_metric": _check_fold,
    "expected_sensitivity": _check_expected,
    "score_and_select": _check_pruned,
    "score_and_select_varlen": _packed(_check_pruned, "x"),
    "project_and_select": _check_pruned,
    "project_and_select_varlen": _packed(_check_pruned, "x"),
    "merge": _check_merge,
    "merge_varlen": _packed(_check_merge, "tokens"),
    "merge_bipartite": _check_bipartite,
    "budget": _check_budget,
    "compact": _check_compact,
    "frame_change": _check_frame_change,
}
for _op, (_certificate, _tokens) in _SELECTIONS.items():
    _CHECKS[_op] = _selecting(_certificate)
    _CHECKS[f"{_op}_varlen"] = _packed(_selecting(_certificate), _tokens)
