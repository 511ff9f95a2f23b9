"""The forms of a projector's sensitivity: what each folds the weights into, and how it scores.

The mathematics is in docs/math.md, that of the norms in docs/norm_jacobian.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

import zoprune_kernels
from zoprune_kernels.reference import ACTIVATION, derivative

from . import norms
from .estimator import Estimator
from .metric import Fold

if TYPE_CHECKING:
    from .projector import Projector


class Form(Protocol):
    """Both methods are called within ``layers.undisturbed``."""

    def fold(self, projector: Projector, dtype: torch.dtype) -> Fold:
        """The layers' weights, made once for each state of them."""

    def score(self, projector: Projector, x: Tensor, fold: Fold, estimator: Estimator) -> Tensor:
        """Sensitivity of each token: x [T, d] before the norm -> float32 [T]."""


class Directions:
    """The mean over random directions, after the norm."""

    def fold(self, projector: Projector, dtype: torch.dtype) -> Fold:
        w1, b1 = projector.first_layer(dtype)
        return Fold(w1, b1, w2=projector.second_layer(dtype))

    def score(self, projector: Projector, x: Tensor, fold: Fold, estimator: Estimator) -> Tensor:
        return zoprune_kernels.sensitivity(
            projector.normalised(x).to(fold.w1.dtype),
            fold.w1,
            fold.b1,
            fold.w2,
            estimator.directions(projector.width, x.device),
            step=float(estimator.step),
            activation=projector.activation,
        )


class Closed:
    """The root mean square over all directions, after the norm."""

    def fold(self, projector: Projector, dtype: torch.dtype) -> Fold:
        w1, b1 = projector.first_layer(dtype)
        w2 = projector.second_layer(dtype)
        return Fold(w1, b1, zoprune_kernels.fold_metric(w1, w2))

    def score(self, projector: Projector, x: Tensor, fold: Fold, estimator: Estimator) -> Tensor:
        x = projector.normalised(x).to(fold.w1.dtype)
        return zoprune_kernels.expected_sensitivity(
            x, fold.w1, fold.b1, fold.metric, activation=projector.activation
        )


class ThroughNorm:
    """sqrt(E ||J u||^2) with J = W2 diag(g) sum_p W1_p Gamma N_p / sigma_p."""

    def fold(self, projector: Projector, dtype: torch.dtype) -> Fold:
        w1, b1 = projector.first_layer(dtype)
        w2 = projector.second_layer(dtype)
        norm, patches = projector.norm, projector.patches
        gamma, beta = norms.affine(norm, dtype)
        if beta is not None:
            b1 = F.linear(beta.to(dtype).repeat(patches), w1, b1)
        blocks = w1.unflatten(1, (patches, -1)).transpose(0, 1).float() * gamma
        if norms.is_layer_norm(norm):
            blocks = blocks - blocks.mean(-1, keepdim=True)
        blocks = blocks.to(w1.dtype).contiguous()  # [P, H, c]
        metric = torch.stack([zoprune_kernels.fold_metric(b, w2) / patches for b in blocks])
        gram = (w2.float().T @ w2.float()).to(metric.dtype)
        return Fold(blocks, b1, metric, gram)

    def score(self, projector: Projector, x: Tensor, fold: Fold, estimator: Estimator) -> Tensor:
        patches, _, channels = fold.w1.shape
        x = x.reshape(-1, patches, channels)
        xhat, inverse_sigma = norms.standardised(projector.norm, x)
        # the share of each rank-one term, per patch
        tau = (2 - xhat.square().mean(-1)) / channels  # [T, P]
        y = torch.bmm(xhat.to(fold.w1.dtype).transpose(0, 1), fold.w1.transpose(1, 2))  # [P, T, H]
        a = y.float().sum(0) + (0 if fold.b1 is None else fold.b1.float())  # [T, H]
        g = projector.derivative(a)
        total = torch.zeros_like(inverse_sigma[:, 0])  # [T]
        for p in range(patches):
            full = quadratic_form(g, fold.metric[p])
            parallel = quadratic_form(g * y[p].float(), fold.gram) / (patches * channels)
            total += inverse_sigma[:, p].square() * (full - tau[:, p] * parallel)
        return total.clamp_min(0).sqrt()


class InnerNorm:
    """sqrt(E ||J u||^2) with J = W2 Gamma N diag(g) W1, N = (P - h h^T / H) / sigma."""

    def fold(self, projector: Projector, dtype: torch.dtype) -> Fold:
        w1, b1 = projector.first_layer(dtype)
        gamma = norms.affine(projector.inner_norm, dtype)[0]
        w2 = projector.second_layer(dtype).float() * gamma
        if norms.is_layer_norm(projector.inner_norm):
            w2 = w2 - w2.mean(-1, keepdim=True)
        metric = zoprune_kernels.fold_metric(w1, w2.to(dtype))
        gram, covariance = w2.T @ w2, w1.float() @ w1.float().T / w1.shape[1]
        return Fold(w1, b1, metric, gram.to(dtype), covariance=covariance.to(dtype))

    def score(self, projector: Projector, x: Tensor, fold: Fold, estimator: Estimator) -> Tensor:
        a = F.linear(x.to(fold.w1.dtype), fold.w1, fold.b1).float()  # [T, H]
        h, inverse_sigma = norms.standardised(
            projector.inner_norm, ACTIVATION[projector.activation](a)
        )
        g = derivative(projector.activation, a)
        v = F.linear(h.to(fold.gram.dtype), fold.gram).float()
        q = F.linear((g * h).to(fold.covariance.dtype), fold.covariance).float()
        hidden = h.shape[1]
        total = quadratic_form(g, fold.metric) - 2 / hidden * (v * g * q).sum(-1)
        total += (v * h).sum(-1) * (g * h * q).sum(-1) / hidden**2
        return inverse_sigma * total.clamp_min(0).sqrt()


FORMS: dict[str, Form] = {
    "directions": Directions(),
    "closed": Closed(),
    "through norm": ThroughNorm(),
    "inner norm": InnerNorm(),
}


def quadratic_form(g: Tensor, metric: Tensor) -> Tensor:
    """g^T M g for each row: g [T, H] float32, M [H, H] -> [T] float32."""
    return (F.linear(g.to(metric.dtype), metric) * g).sum(-1, dtype=torch.float32)
