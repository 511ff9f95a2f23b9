"""The kernels put together: scores, and the projector's outputs where they are wanted as well.

Every row of every product is computed in one way whatever the other rows are, so an image's bits
do not depend on its batch; a library GEMM, which chooses its kernel by shape, would break that.
Nothing here synchronises with the host.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from . import sensitivity, tiles
from .launch import aligned
from .linear import linear
from .norms import mean_norms
from .quadratic import project_and_quadratic
from .replay import replayed


class Layers(NamedTuple):
    """f(x) = w2 phi(w1 x + b1) + b2; w1 [H, d], w2 [D, H], which the closed form alone lacks."""

    w1: Tensor
    b1: Tensor | None
    w2: Tensor | None
    b2: Tensor | None
    activation: str

    def prepared(self) -> Layers:
        """With strides that the kernels read: a copy only where a layout is unusual."""
        return Layers(
            aligned(self.w1),
            None if self.b1 is None else self.b1.contiguous(),
            None if self.w2 is None else aligned(self.w2),
            None if self.b2 is None else self.b2.contiguous(),
            self.activation,
        )


class Scored(NamedTuple):
    """scores float32 [T], and the projector's outputs z [T, D] in x's dtype where wanted."""

    scores: Tensor
    z: Tensor | None


@replayed
def closed_form(x: Tensor, layers: Layers, metric: Tensor, outputs: bool = False) -> Scored:
    """sqrt(g^T M g) of tokens x [T, d]; 3 launches, outputs included."""
    x, p, metric = aligned(x), layers.prepared(), aligned(metric)
    if p.activation == "identity":
        return _one_for_all(_closed_form(x[:1], p, metric, False), x, p, outputs)
    return _closed_form(x, p, metric, outputs)


@replayed
def directional(
    x: Tensor, layers: Layers, directions: Tensor, step: float, outputs: bool = False
) -> Scored:
    """mean_j ||W2 t_j|| of tokens x [T, d]; 5 launches, 7 for a finite step of a smooth activation,
    1 more for the outputs."""
    x, p, directions = aligned(x), layers.prepared(), aligned(directions)
    if p.activation == "identity":
        return _one_for_all(_directional(x[:1], p, directions, step, False), x, p, outputs)
    return _directional(x, p, directions, step, outputs)


@replayed
def project(x: Tensor, layers: Layers) -> Tensor:
    """z = f(x) [T, D] of tokens x [T, d]; 2 launches."""
    x, p = aligned(x), layers.prepared()
    tile = tiles.tiles(x.device, x.dtype).linear
    phi = linear(x, p.w1, p.b1, p.activation, tile, projected=True).projected
    assert phi is not None
    return _second_layer(phi, p)


def _one_for_all(first: Scored, x: Tensor, p: Layers, outputs: bool) -> Scored:
    """A linear projector reacts the same to every token: the first one's score serves all."""
    return Scored(first.scores.repeat(x.shape[0]), project(x, p) if outputs else None)


def _closed_form(x: Tensor, p: Layers, metric: Tensor, outputs: bool) -> Scored:
    table = tiles.tiles(x.device, x.dtype)
    first = linear(x, p.w1, p.b1, p.activation, table.linear, projected=outputs, slope=metric.dtype)
    if metric.element_size() == x.element_size():
        z, partials = project_and_quadratic(
            first.projected, p.w2, p.b2, first.slope, metric, table.quadratic
        )
    else:  # the two products need different tiles, so they are two launches
        z = None if first.projected is None else _second_layer(first.projected, p)
        tile = tiles.tiles(x.device, metric.dtype).quadratic
        _, partials = project_and_quadratic(None, None, None, first.slope, metric, tile)
    assert partials is not None
    return Scored(mean_norms(partials, None), z)


def _directional(x: Tensor, p: Layers, directions: Tensor, step: float, outputs: bool) -> Scored:
    assert p.w2 is not None
    table = tiles.tiles(x.device, x.dtype)
    forms = sensitivity.forms(step, p.activation)
    first = linear(
        x,
        p.w1,
        p.b1,
        p.activation,
        table.linear,
        projected=outputs,
        slope=sensitivity.slope_dtype(x.dtype) if sensitivity.DERIVATIVE in forms else None,
        cubic=sensitivity.CUBIC in forms,
        preactivation=sensitivity.DIFFERENCE in forms,
    )
    v = sensitivity.project_directions(directions, p.w1, step, p.activation, table.directions)
    partials = sensitivity.partial_norms(
        first, v, p.w2, p.activation, table, tiles.processors(x.device), forms
    )
    z = None if first.projected is None else _second_layer(first.projected, p)
    return Scored(mean_norms(partials, v.scale), z)


def _second_layer(phi: Tensor, p: Layers) -> Tensor:
    tile = tiles.tiles(phi.device, phi.dtype).quadratic
    z, _ = project_and_quadratic(phi, p.w2, p.b2, None, None, tile)
    assert z is not None
    return z
