"""Every operator of the ``zoprune`` namespace: its schema, fake kernel and PyTorch fallback.

The operators exist on every install. Native kernels register themselves for their device when the
library loads (``_native``) and take precedence over the fallback. All are functional and
inference-only: none has data-dependent output shapes, none synchronises with the host on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import contracts, fallback
from .contracts import tokens as token_contracts
from .fallback import handover
from .rules import PruneRule, SelectRule, Suppression

_RULE = """str method="sads", float max_similarity=1.0, bool sort=True, float tradeoff=0.5,
    str first="score", int num_seed=0, bool centre=False, int picks_per_step=1"""
_SUPPRESSION = """str rule="soft", float sigma_space=1.5, float sigma_similarity=0.05,
    float radius=5.0, float strength=1.0, float threshold=0.9"""
_PRUNE_OPTIONS = f"""
    Tensor? directions=None, Tensor? metric=None, Tensor? keys=None, Tensor? must_keep=None,
    Tensor? valid=None, Tensor? positions=None, Tensor? weights=None, *,
    int num_directions=64, float step=0.01, str distribution="sphere", int seed=0,
    str activation="gelu", {_RULE},
    {_SUPPRESSION}"""
_SELECT_OPTIONS = f"""
    Tensor? must_keep=None, Tensor? valid=None, *,
    {_RULE}"""
_SUPPRESS_OPTIONS = f"""
    Tensor? positions=None, Tensor? must_keep=None, Tensor? valid=None, *,
    {_SUPPRESSION}, bool sort=True"""
_DPP_OPTIONS = "Tensor? must_keep=None, Tensor? valid=None, *, bool sort=True"
_COVERAGE_OPTIONS = f"Tensor? weights=None, {_DPP_OPTIONS}"
_PROJECTOR = "Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2"
_PACKING = "Tensor cu_tokens, Tensor cu_keep, int total_keep"

SCHEMAS = {
    "directions": """(int num, int dim, *, str distribution="sphere", int seed=0,
        ScalarType? dtype=None, Device? device=None) -> Tensor""",
    "sensitivity": """(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor directions, *,
        float step=0.01, str activation="gelu") -> Tensor""",
    "fold_metric": "(Tensor w1, Tensor w2, Tensor? directions=None) -> Tensor",
    "expected_sensitivity": """(Tensor x, Tensor w1, Tensor? b1, Tensor metric, *,
        str activation="gelu") -> Tensor""",
    "select": f"(Tensor scores, Tensor? keys, int k, {_SELECT_OPTIONS}) -> Tensor",
    "select_varlen": f"(Tensor scores, Tensor? keys, {_PACKING}, {_SELECT_OPTIONS}) -> Tensor",
    "select_dpp": f"(Tensor quality, Tensor keys, int k, {_DPP_OPTIONS}) -> Tensor",
    "select_dpp_varlen": f"(Tensor quality, Tensor keys, {_PACKING}, {_DPP_OPTIONS}) -> Tensor",
    "select_suppress": f"(Tensor scores, Tensor? keys, int k, {_SUPPRESS_OPTIONS}) -> Tensor",
    "select_suppress_varlen": f"""(Tensor scores, Tensor? keys, {_PACKING}, {_SUPPRESS_OPTIONS})
        -> Tensor""",
    "select_coverage": f"(Tensor scores, Tensor keys, int k, {_COVERAGE_OPTIONS}) -> Tensor",
    "select_coverage_varlen": f"""(Tensor scores, Tensor keys, {_PACKING}, {_COVERAGE_OPTIONS})
        -> Tensor""",
    "score_and_select": f"""({_PROJECTOR}, int k, {_PRUNE_OPTIONS})
        -> (Tensor indices, Tensor scores)""",
    "score_and_select_varlen": f"""({_PROJECTOR}, {_PACKING}, {_PRUNE_OPTIONS})
        -> (Tensor indices, Tensor scores)""",
    "project_and_select": f"""({_PROJECTOR}, int k, {_PRUNE_OPTIONS})
        -> (Tensor tokens, Tensor indices, Tensor scores)""",
    "project_and_select_varlen": f"""({_PROJECTOR}, {_PACKING}, {_PRUNE_OPTIONS})
        -> (Tensor tokens, Tensor indices, Tensor scores)""",
    "merge": """(Tensor tokens, Tensor keys, Tensor indices, Tensor? weights=None,
        Tensor? valid=None, *, str rule="mean") -> (Tensor merged, Tensor sizes)""",
    "merge_varlen": """(Tensor tokens, Tensor keys, Tensor indices, Tensor cu_tokens,
        Tensor cu_keep, Tensor? weights=None, Tensor? valid=None, *, str rule="mean")
        -> (Tensor merged, Tensor sizes)""",
    "merge_bipartite": """(Tensor tokens, Tensor keys, int count, Tensor? sizes=None)
        -> (Tensor merged, Tensor sizes, Tensor positions)""",
    "budget": """(Tensor weights, int total, Tensor? capacity=None, *,
        str rule="proportional", float temperature=1.0, int minimum=0) -> Tensor""",
    "compact": "(Tensor[] tensors, Tensor indices, int[] dims) -> Tensor[]",
    "frame_change": "(Tensor x) -> Tensor",
}

_library = torch.library.Library("zoprune", "DEF")


def _register() -> None:
    for name, schema in SCHEMAS.items():
        _library.define(f"{name}{' '.join(schema.split())}", tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(name, getattr(fallback, name), "CompositeExplicitAutograd")
        torch.library.register_fake(f"zoprune::{name}", globals()[f"_{name}"], lib=_library)
        if name != "directions":
            torch.library.register_autograd(f"zoprune::{name}", _no_backward(name), lib=_library)

    for name in handover.OPERATORS:
        arguments = " ".join(SCHEMAS[name].split()).removeprefix("(")
        _library.define(f"_reference_{name}(str reason, {arguments}")
        reference = handover.reference(name, getattr(fallback, name))
        _library.impl(f"_reference_{name}", reference, "CompositeExplicitAutograd")


def _no_backward(name: str):
    def backward(ctx: Any, *gradients: Any) -> None:
        raise RuntimeError(f"zoprune::{name}: inference-only: it has no backward")

    return backward


# -- fake kernels: the checks and the outputs' shapes and dtypes -----------------------------------


def _directions(num, dim, *, distribution="sphere", seed=0, dtype=None, device=None):
    shape = contracts.directions(num, dim, distribution, dtype)
    return torch.empty(shape, dtype=dtype or torch.float32, device=device or "cpu")


def _sensitivity(x, w1, b1, w2, directions, *, step=0.01, activation="gelu"):
    shape = contracts.sensitivity(x, w1, b1, w2, directions, step, activation)
    return x.new_empty(shape, dtype=torch.float32)


def _fold_metric(w1, w2, directions=None):
    return w1.new_empty(
        contracts.fold_metric(w1, w2, directions), dtype=contracts.metric_dtype(w1.dtype)
    )


def _expected_sensitivity(x, w1, b1, metric, *, activation="gelu"):
    shape = contracts.expected_sensitivity(x, w1, b1, metric, activation)
    return x.new_empty(shape, dtype=torch.float32)


def _select(scores, keys, k, must_keep=None, valid=None, *, sort=True, **rule):
    shape = contracts.select(scores, keys, k, must_keep, valid, SelectRule(**rule))
    return scores.new_empty(shape, dtype=torch.int64)


def _select_varlen(
    scores,
    keys,
    cu_tokens,
    cu_keep,
    total_keep,
    must_keep=None,
    valid=None,
    *,
    sort=True,
    **rule,
):
    packing = (cu_tokens, cu_keep, total_keep)
    shape = contracts.select_varlen(scores, keys, *packing, must_keep, valid, SelectRule(**rule))
    return scores.new_empty(shape, dtype=torch.int64)


def _select_dpp(quality, keys, k, must_keep=None, valid=None, *, sort=True):
    shape = contracts.select_dpp(quality, keys, k, must_keep, valid)
    return quality.new_empty(shape, dtype=torch.int64)


def _select_dpp_varlen(
    quality, keys, cu_tokens, cu_keep, total_keep, must_keep=None, valid=None, *, sort=True
):
    packing = (cu_tokens, cu_keep, total_keep)
    shape = contracts.select_dpp_varlen(quality, keys, *packing, must_keep, valid)
    return quality.new_empty(shape, dtype=torch.int64)


def _select_suppress(
    scores, keys, k, positions=None, must_keep=None, valid=None, *, sort=True, **options
):
    shape = contracts.select_suppress(
        scores, keys, k, positions, must_keep, valid, Suppression(**options)
    )
    return scores.new_empty(shape, dtype=torch.int64)


def _select_suppress_varlen(
    scores,
    keys,
    cu_tokens,
    cu_keep,
    total_keep,
    positions=None,
    must_keep=None,
    valid=None,
    *,
    sort=True,
    **options,
):
    packing = (cu_tokens, cu_keep, total_keep)
    shape = contracts.select_suppress_varlen(
        scores, keys, *packing, positions, must_keep, valid, Suppression(**options)
    )
    return scores.new_empty(shape, dtype=torch.int64)


def _select_coverage(scores, keys, k, weights=None, must_keep=None, valid=None, *, sort=True):
    shape = contracts.select_coverage(scores, keys, k, weights, must_keep, valid)
    return scores.new_empty(shape, dtype=torch.int64)


def _select_coverage_varlen(
    scores,
    keys,
    cu_tokens,
    cu_keep,
    total_keep,
    weights=None,
    must_keep=None,
    valid=None,
    *,
    sort=True,
):
    packing = (cu_tokens, cu_keep, total_keep)
    shape = contracts.select_coverage_varlen(scores, keys, *packing, weights, must_keep, valid)
    return scores.new_empty(shape, dtype=torch.int64)


def _pruned(op: str, contract: Any, arguments: tuple, options: dict) -> tuple[Tensor, ...]:
    """(tokens, indices, scores) of a pruning operator, from its contract."""
    x = arguments[0]
    head = 6 if contract is contracts.score_and_select else 8
    tensors = (*arguments[head:], *(None,) * (head + 7 - len(arguments)))
    sampling = {"num_directions": 64, "step": 0.01, "distribution": "sphere", "seed": 0}
    sampling |= {"activation": "gelu", "sort": True}
    sampling |= {name: options.pop(name) for name in sampling if name in options}
    tokens, kept, scores = contract(
        op,
        *arguments[:head],
        *tensors[:5],
        *(sampling[name] for name in ("num_directions", "step", "distribution", "activation")),
        PruneRule.of(*tensors[5:], **options),
    )
    return (
        x.new_empty(tokens),
        x.new_empty(kept, dtype=torch.int64),
        x.new_empty(scores, dtype=torch.float32),
    )


def _score_and_select(*arguments, **options):
    return _pruned("score_and_select", contracts.score_and_select, arguments, options)[1:]


def _score_and_select_varlen(*arguments, **options):
    contract = contracts.score_and_select_varlen
    return _pruned("score_and_select_varlen", contract, arguments, options)[1:]


def _project_and_select(*arguments, **options):
    return _pruned("project_and_select", contracts.score_and_select, arguments, options)


def _project_and_select_varlen(*arguments, **options):
    contract = contracts.score_and_select_varlen
    return _pruned("project_and_select_varlen", contract, arguments, options)


def _merge(tokens, keys, indices, weights=None, valid=None, *, rule="mean"):
    shape = token_contracts.merge(tokens, keys, indices, weights, valid, rule)
    return tokens.new_empty(shape), tokens.new_empty(shape[:-1], dtype=torch.float32)


def _merge_varlen(
    tokens, keys, indices, cu_tokens, cu_keep, weights=None, valid=None, *, rule="mean"
):
    shape = token_contracts.merge_varlen(
        tokens, keys, indices, cu_tokens, cu_keep, weights, valid, rule
    )
    return tokens.new_empty(shape), tokens.new_empty(shape[:-1], dtype=torch.float32)


def _merge_bipartite(tokens, keys, count, sizes=None):
    shape = token_contracts.merge_bipartite(tokens, keys, count, sizes)
    return (
        tokens.new_empty(shape),
        tokens.new_empty(shape[:-1], dtype=torch.float32),
        tokens.new_empty(shape[:-1], dtype=torch.int64),
    )


def _budget(weights, total, capacity=None, *, rule="proportional", temperature=1.0, minimum=0):
    shape = token_contracts.budget(weights, total, capacity, rule, temperature, minimum)
    return weights.new_empty(shape, dtype=torch.int32)


def _compact(tensors, indices, dims):
    shapes = token_contracts.compact(tensors, indices, dims)
    return [tensor.new_empty(shape) for tensor, shape in zip(tensors, shapes, strict=True)]


def _frame_change(x):
    return x.new_empty(token_contracts.frame_change(x), dtype=torch.float32)


_register()
