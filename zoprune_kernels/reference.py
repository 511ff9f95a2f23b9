"""The mathematics in readable PyTorch: the truth that every other backend is compared with.

All functions run in float64 when their inputs are float64, else in float32. They are also the
registered fallback, so that each operator exists where no native kernel does. Sections refer to
docs/math.md; the paper is ZOO-Prune, arXiv 2509.24837.

Shapes: x [..., N, d], w1 [H, d], b1 [H], w2 [D, H], b2 [D], directions [m, d], metric [H, H].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from . import philox

# -- activations ----------------------------------------------------------------------------------

_TANH_SCALE, _TANH_CUBIC = math.sqrt(2 / math.pi), 0.044715

ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda a: F.gelu(a, approximate="tanh"),
    "quick_gelu": lambda a: a * torch.sigmoid(1.702 * a),
    "silu": F.silu,
    "relu": F.relu,
    "identity": lambda a: a,
}


def _gelu_derivative(a: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-a / math.sqrt(2)) + a * torch.exp(-a * a / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh_derivative(a: Tensor) -> Tensor:
    t = torch.tanh(_TANH_SCALE * (a + _TANH_CUBIC * a**3))
    inner = _TANH_SCALE * (1 + 3 * _TANH_CUBIC * a * a)
    return 0.5 * (1 + t) + 0.5 * a * (1 - t * t) * inner


def _silu_derivative(a: Tensor, scale: float = 1.0) -> Tensor:
    s = torch.sigmoid(scale * a)
    return s * (1 + scale * a * (1 - s))


DERIVATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu_derivative,
    "gelu_tanh": _gelu_tanh_derivative,
    "quick_gelu": lambda a: _silu_derivative(a, 1.702),
    "silu": _silu_derivative,
    "relu": lambda a: (a > 0).to(a.dtype),
    "identity": torch.ones_like,
}

# -- scoring --------------------------------------------------------------------------------------


def project(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, activation: str
) -> Tensor:
    """The projector f(x) = W2 phi(W1 x + b1) + b2, [..., N, D] in float32 or float64."""
    x, w1, b1, w2, b2 = _upcast(x, w1, b1, w2, b2)
    return F.linear(ACTIVATION[activation](F.linear(x, w1, b1)), w2, b2)


def paper_sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    *,
    step: float = 0.01,
    activation: str = "gelu",
) -> Tensor:
    """S_i = mean_j ||f(x_i + h u_j) - f(x_i - h u_j)|| / 2h, as the paper writes it (eq. 3-4)."""
    x, directions = _upcast(x, directions)
    total = x.new_zeros(x.shape[:-1])  # [..., N]
    for u in directions:
        plus = project(x + step * u, w1, b1, w2, None, activation)
        minus = project(x - step * u, w1, b1, w2, None, activation)
        total += (plus - minus).norm(dim=-1) / (2 * step)
    return total / directions.shape[0]


def sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    *,
    step: float = 0.01,
    activation: str = "gelu",
) -> Tensor:
    """The same score with the difference taken before the second layer ("Exact rewriting").

    ``step = 0`` is the limit: the activation's derivative times the projected direction.
    """
    if activation == "identity":  # every token has the same score: compute it once
        one = x[..., :1, :].reshape(-1, x.shape[-1])[:1]
        return (
            _directional(one, w1, b1, w2, directions, step, activation).expand(x.shape[:-1]).clone()
        )
    return _directional(x, w1, b1, w2, directions, step, activation)


def _directional(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    step: float,
    activation: str,
) -> Tensor:
    x, w1, b1, w2, directions = _upcast(x, w1, b1, w2, directions)
    a = F.linear(x, w1, b1)  # [..., N, H]
    v = F.linear(directions, w1)  # [m, H]
    total = a.new_zeros(a.shape[:-1])
    for v_j in v:
        change = _activation_change(a.double(), v_j.double(), step, activation).to(a.dtype)
        total += F.linear(change, w2).norm(dim=-1)
    return total / directions.shape[0]


def _activation_change(a: Tensor, v: Tensor, step: float, activation: str) -> Tensor:
    """[phi(a + h v) - phi(a - h v)] / 2h, [..., N, H]; float64 keeps it from cancelling."""
    if step == 0:
        return DERIVATIVE[activation](a) * v
    phi = ACTIVATION[activation]
    return (phi(a + step * v) - phi(a - step * v)) / (2 * step)


def fold_metric(w1: Tensor, w2: Tensor, directions: Tensor | None = None) -> Tensor:
    """M = (W2^T W2) * (W1 C W1^T), [H, H], with C = I / d or U^T U / m ("Closed form")."""
    w1, w2, directions = _upcast(w1, w2, directions)
    if directions is None:
        projected = w1 / math.sqrt(w1.shape[1])  # [H, d]
    else:
        projected = F.linear(w1, directions) / math.sqrt(directions.shape[0])  # [H, m]
    return (w2.T @ w2) * (projected @ projected.T)


def expected_sensitivity(
    x: Tensor, w1: Tensor, b1: Tensor | None, metric: Tensor, *, activation: str = "gelu"
) -> Tensor:
    """S_i = sqrt(g^T M g), g = phi'(W1 x_i + b1): the root mean square over all directions."""
    if activation == "identity":
        one = x[..., :1, :].reshape(-1, x.shape[-1])[:1]
        return _quadratic_form(one, w1, b1, metric, activation).expand(x.shape[:-1]).clone()
    return _quadratic_form(x, w1, b1, metric, activation)


def _quadratic_form(
    x: Tensor, w1: Tensor, b1: Tensor | None, metric: Tensor, activation: str
) -> Tensor:
    x, w1, b1, metric = _upcast(x, w1, b1, metric)
    g = DERIVATIVE[activation](F.linear(x, w1, b1))  # [..., N, H]
    return ((g @ metric) * g).sum(-1).clamp_min(0).sqrt()


# -- selection ------------------------------------------------------------------------------------

# Candidates are ranked by class first, then by gain, then by lowest index.
_MUST_KEEP, _FREE, _BLOCKED, _NAN, _INVALID, _PICKED = 5, 4, 3, 2, 1, 0


def select(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
    seed: int = 0,
) -> Tensor:
    """Plain greedy selection, one image at a time; scores [N] or [B, N], result [..., k]."""
    if scores.dim() == 2:
        images = [
            select(
                scores[b],
                None if keys is None else keys[b],
                k,
                None if must_keep is None else must_keep[b],
                None if valid is None else valid[b],
                method=method,
                max_similarity=max_similarity,
                sort=sort,
                seed=seed,
            )
            for b in range(scores.shape[0])
        ]
        return torch.stack(images)
    picks = _greedy(scores, keys, k, must_keep, valid, method, max_similarity, seed)
    return picks.sort().values if sort else picks


def _greedy(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None,
    valid: Tensor | None,
    method: str,
    max_similarity: float,
    seed: int,
) -> Tensor:
    """Indices [k] in pick order: the best remaining candidate, k times."""
    tokens = scores.shape[0]
    weight = normalised_scores(scores, valid)
    if method == "topk":  # normalising would merge close scores
        weight = finite_scores(scores)
    if method == "random":
        weight = philox.uniform(tokens, seed, scores.device)
    z = None if keys is None else unit_keys(keys)
    # The largest cosine to the selected tokens; nothing is selected yet.
    similarity = torch.full_like(weight, -math.inf)
    classes = torch.full((tokens,), _FREE, device=scores.device)
    classes = classes.masked_fill(scores.isnan(), _NAN)
    if must_keep is not None:
        classes = classes.masked_fill(must_keep, _MUST_KEEP)
    if valid is not None:
        classes = classes.masked_fill(~valid, _INVALID)

    picks = torch.empty(k, dtype=torch.int64, device=scores.device)
    for step in range(k):
        if max_similarity < 1:
            too_close = (similarity > max_similarity) & (classes == _FREE)
            classes = classes.masked_fill(too_close, _BLOCKED)
        gain = weight if step == 0 else _gain(weight, similarity, method)
        pick = _first_best(classes, gain)
        picks[step] = pick
        classes = classes.index_fill(0, pick, _PICKED)
        if z is not None:
            cosine = (z @ z[pick]).clamp(-1, 1).to(similarity.dtype)
            similarity = torch.maximum(similarity, cosine)
    return picks


def _gain(weight: Tensor, similarity: Tensor, method: str) -> Tensor:
    if method == "sads":
        return weight * (1 - similarity)
    if method == "maxmin":
        return 1 - similarity
    return weight  # topk, random


def _first_best(classes: Tensor, gain: Tensor) -> Tensor:
    """The lowest index of the highest gain within the best class; no host synchronisation."""
    best_class = classes.max()
    ranked = torch.where((best_class == _FREE) | (best_class == _BLOCKED), gain, 0.0)
    ranked = torch.where(classes == best_class, ranked, -math.inf)
    index = torch.arange(gain.shape[0], device=gain.device)
    return torch.where(ranked == ranked.max(), index, gain.shape[0]).min()


def normalised_scores(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """w = (S - min S) / (max S - min S + 1e-8) over the valid tokens, ones where all are equal."""
    s = finite_scores(scores).double()
    usable = ~s.isnan() if valid is None else ~s.isnan() & valid
    low = torch.where(usable, s, math.inf).min()
    high = torch.where(usable, s, -math.inf).max()
    weight = torch.where(high > low, (s - low) / (high - low + 1e-8), 1.0)
    return torch.where(usable, weight, 0.0).to(torch.promote_types(scores.dtype, torch.float32))


def finite_scores(scores: Tensor) -> Tensor:
    """Scores in float32 or more, infinities as the largest finite float32; NaN stays."""
    largest = torch.finfo(torch.float32).max
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).clamp(-largest, largest)


def unit_keys(keys: Tensor) -> Tensor:
    """Keys divided by their norms; a key whose norm is zero or not finite becomes zero."""
    norm = keys.double().norm(dim=-1, keepdim=True)
    usable = (norm > 0) & norm.isfinite()
    unit = torch.where(usable, keys.double() / norm, 0.0)
    return unit.to(torch.promote_types(keys.dtype, torch.float32))


def _upcast(*tensors: Tensor | None) -> list:
    """float64 stays, all other types become float32."""
    return [
        None if t is None else t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors
    ]
