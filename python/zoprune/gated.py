"""Gated projectors: ``[norm] -> linear 1, gate -> linear 1 * activation(gate) -> linear 2``.

With u = Wu x + bu and v = Wv x + bv, a change dx moves the output by
W2 [phi(v) * Wu dx + u * phi'(v) * Wv dx]. So a gated projector is a plain one with W1 = [Wu; Wv],
W2 = [W2, W2] and the factors [phi(v); u phi'(v)] in the place of phi'(a): the closed form's metric
[2 H, 2 H] and everything about the norm are the same (docs/math.md, "Gated projectors").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

import zoprune_kernels
from zoprune_kernels.reference import ACTIVATION, derivative

from . import layers
from .estimator import Estimator
from .forms import FORMS, quadratic_form
from .metric import Fold
from .projector import Projector


@dataclass(eq=False)
class GatedProjector(Projector):
    """A projector whose hidden channels are multiplied by an activated gate."""

    LINEARS: ClassVar[tuple[str, ...]] = (*Projector.LINEARS, "gate")

    gate: Any = None  # a linear layer; None: the gate is the second half of linear_1's outputs

    def project(self, x: Tensor) -> Tensor:
        x = self.normalised(x.reshape(-1, self.width))
        a = self.linear_1(x)
        a = a if self.gate is None else torch.cat([a, self.gate(x)], dim=-1)
        return self.linear_2(self.gated(a))

    def gated(self, a: Tensor) -> Tensor:
        """The hidden channels u phi(v) of the first layer's outputs [u; v]."""
        u, v = a.chunk(2, -1)
        return u * ACTIVATION[self.activation](v)

    def first_layer(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """[Wu; Wv] [2 H, d] and [bu; bv]."""
        w1, b1 = super().first_layer(dtype)
        if self.gate is None:
            return w1, b1
        gate, bias = layers.weights(self.gate, dtype)
        if b1 is not None or bias is not None:
            zero = w1.new_zeros(len(w1))
            b1 = torch.cat([zero if b is None else b for b in (b1, bias)])
        return torch.cat([w1, gate]), b1

    def second_layer(self, dtype: torch.dtype) -> Tensor:
        """[W2, W2] [D, 2 H]."""
        return super().second_layer(dtype).repeat(1, 2)

    def derivative(self, a: Tensor) -> Tensor:
        """[phi(v); u phi'(v)] of the first layer's outputs [u; v]."""
        u, v = a.chunk(2, -1)
        return torch.cat([ACTIVATION[self.activation](v), u * derivative(self.activation, v)], -1)

    def form(self, estimator: Estimator) -> str:
        form = super().form(estimator)
        return form if form == "through norm" else f"gated {form}"

    def flops(self, through_norm: bool = True) -> int:
        hidden = 2 * layers.sizes(self.linear_2)[0]
        forms = 2 if through_norm and self.norm is not None else 1
        return 2 * hidden * self.width + forms * 2 * hidden * hidden

    def describe(self) -> str:
        width, (hidden, out) = self.width, layers.sizes(self.linear_2)
        norm = "" if self.norm is None else f"{type(self.norm).__name__}({width}) -> "
        linear = f"Linear({width} -> {hidden})"
        return f"{norm}{linear} * {self.activation}({linear}) -> Linear({hidden} -> {out})"


class GatedClosed:
    """The root mean square over all directions, after the norm."""

    def fold(self, projector: Any, dtype: torch.dtype) -> Fold:
        w1, b1 = projector.first_layer(dtype)
        return Fold(w1, b1, zoprune_kernels.fold_metric(w1, projector.second_layer(dtype)))

    def score(self, projector: Any, x: Tensor, fold: Fold, estimator: Estimator) -> Tensor:
        x = projector.normalised(x).to(fold.w1.dtype)
        g = projector.derivative(F.linear(x, fold.w1, fold.b1).float())
        return quadratic_form(g, fold.metric).clamp_min(0).sqrt()


class GatedDirections:
    """The mean over random directions of |f(x + h u) - f(x - h u)| / 2h, or of |J u| for h = 0."""

    def fold(self, projector: Any, dtype: torch.dtype) -> Fold:
        w1, b1 = projector.first_layer(dtype)
        return Fold(w1, b1, w2=layers.weights(projector.linear_2, dtype)[0])

    def score(self, projector: Any, x: Tensor, fold: Fold, estimator: Estimator) -> Tensor:
        x = projector.normalised(x).to(fold.w1.dtype)
        a = F.linear(x, fold.w1, fold.b1).float()  # [T, 2 H]
        directions = estimator.directions(projector.width, x.device).to(fold.w1.dtype)
        h, total = float(estimator.step), torch.zeros_like(a[:, 0])
        for moved in F.linear(directions, fold.w1).float():  # [2 H]
            if h == 0:
                first, second = (projector.derivative(a) * moved).chunk(2, -1)
                change = first + second
            else:
                change = projector.gated(a + h * moved) - projector.gated(a - h * moved)
                change = change / (2 * h)
            total += F.linear(change.to(fold.w2.dtype), fold.w2).float().norm(dim=-1)
        return total / len(directions)


FORMS["gated closed"] = GatedClosed()
FORMS["gated directions"] = GatedDirections()
