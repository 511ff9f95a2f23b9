"""Norms of any library: what they subtract, divide by and scale with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import layers
from .estimator import refuse

EPSILON = ("eps", "variance_epsilon", "epsilon")


def affine(norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """gamma [c] and beta [c] of a norm, float32: half of norm(x) -+ norm(-x)."""
    channels = channels_of(norm)
    device = layers.execution_device(norm)
    dtype = layers.dtype_of(norm) or dtype
    x = torch.ones(channels, device=device)
    x[1::2] = -1
    xhat, _ = standardised(norm, x)
    up, down = norm(torch.stack([x, -x]).to(dtype)).float()  # [2, c]
    gamma, beta = (up - down) / 2 / xhat, (up + down) / 2
    stored = [getattr(norm, name, None) for name in ("weight", "bias")]
    if all(s is None or (type(s) in (Tensor, nn.Parameter) and not s.is_meta) for s in stored):
        exact: list[Any] = [None if s is None else s.detach().float() for s in stored]
        near = exact[0] is not None and torch.allclose(exact[0], gamma, rtol=0.02, atol=0.02)
        if near and (exact[1] is None or torch.allclose(exact[1], beta, rtol=0.02, atol=0.02)):
            return exact[0], exact[1]
    return gamma, beta


def standardised(norm: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """(x - mean) / sigma [T, P, c] and 1 / sigma [T, P] in float32; RMSNorm has no mean."""
    x = x.float()
    if is_layer_norm(norm):
        x = x - x.mean(-1, keepdim=True)
    inverse = torch.rsqrt(x.square().mean(-1) + _epsilon(norm))
    return x * inverse[..., None], inverse


def is_layer_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("LayerNorm") or isinstance(module, nn.LayerNorm)


def is_rms_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm")


def channels_of(norm: Any, width: int | None = None) -> int:
    """How many channels a norm acts on; ``width`` where it does not tell."""
    if getattr(norm, "weight", None) is not None:
        return norm.weight.shape[0]
    shape = getattr(norm, "normalized_shape", None)
    return norm.normalized_shape[-1] if width is None or shape else width


def _epsilon(norm: Any) -> float:
    known = [getattr(norm, name) for name in EPSILON if hasattr(norm, name)]
    if not known:
        names = ", ".join(EPSILON)
        refuse("projector", f"a norm with one of {names}", type(norm).__name__)
    epsilon = known[0]
    return torch.finfo(torch.float32).eps if epsilon is None else epsilon
