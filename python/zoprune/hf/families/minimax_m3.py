"""MiniMax M3: an MLP on each patch, a 2 x 2 merge, and an MLP on the merged patches.

Sensitivity is that of the second MLP: perturbations enter behind the merge.
"""

from typing import Any

from ...projector import Projector, activation_of
from .grids import Grids


class MiniMaxM3(Grids):
    models: tuple[str, ...] = ("MiniMaxM3SparseForConditionalGeneration",)
    tower = "model.vision_tower"

    def describe(self, *modules: Any) -> Projector:
        (projector,) = modules
        activation = activation_of(projector.merge_act)
        return Projector(projector.merge_linear_1, activation, projector.merge_linear_2)

    def entry(self, core: Any) -> Any:
        return self.part(core, self.projector).merge_linear_1
