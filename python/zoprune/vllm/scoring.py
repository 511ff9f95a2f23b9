"""How strongly the projector reacts to each token, from weights as the checkpoint has them.

The weights are taken from the stream that vLLM loads, before it shards, packs or quantises them,
and stay frozen: what is folded from them holds as long as the server runs. The mathematics is in
docs/math.md, that of the norm in docs/norm_jacobian.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import zoprune_kernels
from zoprune_kernels.reference import derivative

from .layout import ACTIVATIONS, Layers
from .options import Options

CHUNK = 4096  # tokens scored at once: bounds the extra memory at a few [CHUNK, H] matrices
_PARTS = ("weight", "bias")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Norm:
    """The projector's norm over each patch of c channels, before they are concatenated."""

    weight: Tensor  # [c]
    bias: Tensor | None
    epsilon: float

    @property
    def centred(self) -> bool:
        """LayerNorm, which has a bias; RMSNorm subtracts no mean."""
        return self.bias is not None

    def __call__(self, x: Tensor) -> Tensor:
        if self.centred:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class WeightTap:
    """Copies of the projector's weights, from the (name, tensor) pairs that pass by."""

    def __init__(self, projector: str, layers: Layers) -> None:
        self.names = {
            f"{projector}.{getattr(layers, role)}.{part}": f"{role}.{part}"
            for role in ("linear_1", "linear_2", "norm", "merge")
            if getattr(layers, role) is not None
            for part in _PARTS
        }
        self.prefixes = tuple({name.rsplit(".", 1)[0] for name in self.names})
        self.weights: dict[str, Tensor] = {}

    def listen(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, weight in weights:
            for known, key in self.names.items():
                if name == known or name.endswith("." + known):
                    if weight.dtype not in _FLOATS:
                        self._refuse(name, str(weight.dtype))
                    self.weights[key] = weight.detach().clone()
                    break
            else:
                if any(f".{p}." in "." + name for p in self.prefixes):
                    self._refuse(name, "packed or scaled weights")
            yield name, weight

    def _refuse(self, name: str, got: str) -> None:
        raise ValueError(
            f"zoprune: {name}: expected a checkpoint whose projector is stored in float32, float16 "
            f"or bfloat16 (the rest may be quantised), got {got}"
        )


class Scorer:
    """Sensitivity of projector inputs x [..., d] before the norm -> float32 [T]."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        layers: Layers,
        config: Any,
        options: Options,
        epsilon: Any,
    ) -> None:
        missing = [k for k in ("linear_1.weight", "linear_2.weight") if k not in weights]
        if missing:
            raise ValueError(
                f"zoprune: {missing[0]}: expected among the weights that were loaded, got "
                f"{', '.join(weights) or 'none of the projector'}"
            )
        name = layers.activation(config)
        if name not in ACTIVATIONS:
            raise ValueError(
                f"zoprune: the projector's activation: expected one of {', '.join(ACTIVATIONS)}, "
                f"got {name!r}"
            )
        self.activation = ACTIVATIONS[name]
        self.options = options
        self.norm = None
        if layers.norm is not None:
            self.norm = Norm(weights["norm.weight"], weights.get("norm.bias"), epsilon)
        self.w2 = weights["linear_2.weight"]
        w1, self.b1 = weights["linear_1.weight"], weights.get("linear_1.bias")
        self.width = w1.shape[1]
        if layers.merge is not None:
            merge = weights["merge.weight"]
            if "merge.bias" in weights:
                self.b1 = F.linear(weights["merge.bias"], w1, self.b1)
            w1 = (w1.float() @ merge.float()).to(w1.dtype)
            self.width = merge.shape[1]
        self.patches = 1 if self.norm is None else self.width // self.norm.weight.shape[0]
        if layers.unfolded:  # [H, c P] -> [H, P c]
            w1 = w1.unflatten(1, (-1, self.patches)).transpose(1, 2).flatten(1).contiguous()
        self.w1 = w1  # [H, d]
        self.folded: dict[str, Tensor] = {}

    @property
    def through_norm(self) -> bool:
        return self.norm is not None and self.options.through_norm

    def fold(self) -> dict[str, Tensor]:
        """The metric of the closed form, and what goes with it, by name."""
        if self.options.estimator == "directions":
            return {}
        if not self.through_norm:
            return {"metric": zoprune_kernels.fold_metric(self.w1, self.w2)}
        assert self.norm is not None
        blocks = self._blocks()
        metrics = [zoprune_kernels.fold_metric(b, self.w2) / self.patches for b in blocks]
        gram = (self.w2.float().T @ self.w2.float()).to(metrics[0].dtype)
        return {"metric": torch.stack(metrics), "gram": gram}

    def use(self, folded: dict[str, Tensor]) -> None:
        """Score with what ``fold`` returned, here or in an earlier run."""
        self.folded = folded
        if folded and self.through_norm:
            self.blocks = self._blocks()
            self.shift = self.b1
            assert self.norm is not None
            if self.norm.bias is not None:
                self.shift = F.linear(self.norm.bias.repeat(self.patches), self.w1, self.b1)
        elif self.options.estimator == "directions":
            o = self.options
            self.directions = zoprune_kernels.directions(
                o.num_directions,
                self.width,
                distribution=o.distribution,
                seed=o.seed,
                device=self.w1.device,
            )

    def __call__(self, x: Tensor) -> Tensor:
        x = x.detach().reshape(-1, self.width)  # [T, d]
        if x.dtype != self.w1.dtype:
            x = x.to(self.w1.dtype)
        if self.options.estimator == "directions":
            score = self._by_directions
        else:
            score = self._through_norm if self.through_norm else self._closed
        if len(x) <= CHUNK:
            return score(x)
        return torch.cat([score(chunk) for chunk in x.split(CHUNK)])

    def _closed(self, x: Tensor) -> Tensor:
        return zoprune_kernels.expected_sensitivity(
            self._normalised(x), self.w1, self.b1, self.folded["metric"], activation=self.activation
        )

    def _by_directions(self, x: Tensor) -> Tensor:
        return zoprune_kernels.sensitivity(
            self._normalised(x),
            self.w1,
            self.b1,
            self.w2,
            self.directions,
            step=float(self.options.step),
            activation=self.activation,
        )

    def _through_norm(self, x: Tensor) -> Tensor:
        """sqrt(E ||J u||^2) with J = W2 diag(g) sum_p W1_p Gamma N_p / sigma_p."""
        assert self.norm is not None
        patches, _, channels = self.blocks.shape
        rows = x.reshape(-1, patches, channels).float()
        if self.norm.centred:
            rows = rows - rows.mean(-1, keepdim=True)
        inverse_sigma = torch.rsqrt(rows.square().mean(-1) + self.norm.epsilon)  # [T, P]
        xhat = rows * inverse_sigma[..., None]
        # the share of each rank-one term, per patch
        tau = (2 - xhat.square().mean(-1)) / channels  # [T, P]
        y = torch.bmm(xhat.to(x.dtype).transpose(0, 1), self.blocks.transpose(1, 2))  # [P, T, H]
        a = y.float().sum(0)  # [T, H]
        if self.shift is not None:
            a = a + self.shift.float()
        g = derivative(self.activation, a)
        total = torch.zeros_like(inverse_sigma[:, 0])  # [T]
        for p in range(patches):
            whole = _quadratic_form(g, self.folded["metric"][p])
            parallel = _quadratic_form(g * y[p].float(), self.folded["gram"]) / (patches * channels)
            total += inverse_sigma[:, p].square() * (whole - tau[:, p] * parallel)
        return total.clamp_min(0).sqrt()

    def _normalised(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return x
        return self.norm(x.reshape(len(x), self.patches, -1)).flatten(1)

    def _blocks(self) -> Tensor:
        """W1 [H, d] behind the norm's own weight (and centring), per patch [P, H, c]."""
        assert self.norm is not None
        blocks = self.w1.unflatten(1, (self.patches, -1)).transpose(0, 1).float()
        blocks = blocks * self.norm.weight.float()
        if self.norm.centred:
            blocks = blocks - blocks.mean(-1, keepdim=True)
        return blocks.to(self.w1.dtype).contiguous()


def _quadratic_form(g: Tensor, metric: Tensor) -> Tensor:
    """g^T M g for each row: g [T, H] float32, M [H, H] -> [T] float32."""
    return (F.linear(g.to(metric.dtype), metric) * g).sum(-1, dtype=torch.float32)
