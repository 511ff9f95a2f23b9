"""What each operator does on a GPU, given a checked call. ``register`` puts them in place."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import environment, pipeline
from ..checks import Call
from . import directions as random
from . import scoring
from .scoring import Layers, Scored


class TritonScoring:
    """Scores and projector outputs of one call, all images at once."""

    rows_are_independent = True

    def __init__(self, call: Call) -> None:
        self.call = call
        given = call.arguments.get  # an operator need not have the second layer
        self.layers = Layers(call.w1, call.b1, given("w2"), given("b2"), call.activation)

    def score(self, outputs: bool) -> tuple[Tensor, Tensor | None]:
        x = self.call.x
        if x.dim() == 2:
            return self._scored(x, outputs)
        lead = x.shape[:-1]
        scored = self._scored(x.flatten(0, -2), outputs)
        z = None if scored.z is None else scored.z.view(*lead, -1)
        return scored.scores.view(lead), z

    def project(self, x: Tensor) -> Tensor:
        return scoring.project(x.flatten(0, -2), self.layers).view(*x.shape[:-1], -1)

    def _scored(self, x: Tensor, outputs: bool) -> Scored:
        """Of tokens x [T, d]: closed form with a metric, else over directions, given or drawn."""
        call = self.call
        if call.arguments.get("metric") is not None:
            return scoring.closed_form(x, self.layers, call.metric, outputs)
        drawn = call.directions
        if drawn is None:
            sampling = (call.num_directions, x.shape[1], call.distribution, call.seed)
            drawn = random.directions(*sampling, torch.float32, x.device)
        return scoring.directional(x, self.layers, drawn, call.step, outputs)


def directions(call: Call) -> Tensor:
    sampling = (call.num, call.dim, call.distribution, call.seed)
    return random.directions(*sampling, call.dtype or torch.float32, call.device)


def sensitivity(call: Call) -> Tensor:
    return pipeline.score(call, TritonScoring(call))


def score_and_select(call: Call) -> tuple[Tensor, Tensor]:
    return pipeline.prune(call, TritonScoring(call), dispatch=_dispatch())


def project_and_select(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    return pipeline.prune_and_project(call, TritonScoring(call), dispatch=_dispatch())


expected_sensitivity = sensitivity
score_and_select_varlen, project_and_select_varlen = score_and_select, project_and_select


def _dispatch() -> bool:
    """Triton has no selections of its own: where it is forced, the reference picks."""
    return environment.requested != "triton"
