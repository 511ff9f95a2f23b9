"""What a projector is made of, and how strongly it reacts to each token.

A projector is ``[norm] -> [merge] -> linear 1 -> activation -> linear 2``: the norm acts on each
patch, neighbouring patches are concatenated, and a merge layer, where there is one, is linear. The
mathematics is in docs/math.md, that of the norm in docs/norm_jacobian.md.
"""

from __future__ import annotations

import hashlib
import logging
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoprune_kernels
from zoprune_kernels.reference import ACTIVATION, DERIVATIVE

logger = logging.getLogger("zoprune")
LINEAR_WARNING = (
    "zoprune: the projector is one linear layer: every token has the same sensitivity; "
    "selecting by diversity only"
)
_warned = False
CHUNK = 4096  # tokens scored at once: bounds the extra memory at a few [CHUNK, H] matrices


@dataclass(frozen=True)
class Estimator:
    """How a token's sensitivity is estimated.

    ``closed`` is the root mean square over all directions, ``directions`` the paper's mean over
    ``num_directions`` random ones. With ``through_norm`` (closed form only) the perturbation enters
    before the projector's norm, else after it.
    """

    name: str = "closed"
    num_directions: int = 64
    step: float = 0.01
    distribution: str = "sphere"
    seed: int = 0
    through_norm: bool = True

    def __post_init__(self) -> None:
        if self.name not in ("closed", "directions"):
            raise ValueError(
                f"zoprune: estimator: expected 'closed' or 'directions', got '{self.name}'"
            )


@dataclass(frozen=True)
class Fold:
    """The projector's weights in the form that scoring needs; P patches of c channels, d = P c."""

    w1: Tensor  # [H, d], or [P, H, c] through the norm
    b1: Tensor | None  # [H]
    metric: Tensor  # [H, H], or one for each patch [P, H, H] through the norm
    gram: Tensor | None = None  # [H, H] = W2^T W2, through the norm only


@dataclass(eq=False)
class Projector:
    """A projector's layers; weights stay those of the model and are never copied.

    ``linear_2`` is None for a projector that is one linear layer: no token is more sensitive than
    another, ``score`` returns ones.
    """

    linear_1: nn.Linear
    activation: str
    linear_2: Any  # nn.Linear or None
    norm: Any = None  # a LayerNorm, an RMSNorm or None
    merge: nn.Linear | None = None
    unfolded: bool = False  # the merge layer reads channel by channel, as ``unfold`` lays patches
    _folds: dict[tuple, Fold] = field(default_factory=dict, repr=False)

    @property
    def is_linear(self) -> bool:
        return self.linear_2 is None

    @property
    def width(self) -> int:
        """d, the channels of one token at the projector's input."""
        return (self.merge or self.linear_1).in_features

    @property
    def patches(self) -> int:
        """P, how many separately normalised patches are concatenated into one token."""
        return 1 if self.norm is None else self.width // self.norm.weight.shape[0]

    def score(self, x: Tensor, estimator: Estimator) -> Tensor:
        """Sensitivity of each token: x [..., d] before the norm, any float dtype -> float32 [T]."""
        x = x.detach().reshape(-1, self.width)  # [T, d]
        if self.is_linear:
            return x.new_ones(x.shape[0], dtype=torch.float32)
        if estimator.name == "directions":
            score = self._score_directions
        elif self.norm is not None and estimator.through_norm:
            score = self._score_through_norm
        else:
            score = self._score_closed
        with torch.no_grad():
            return torch.cat([score(chunk, estimator) for chunk in x.split(CHUNK)])

    def project(self, x: Tensor) -> Tensor:
        """The projector's outputs: x [..., d] before the norm -> [T, D]."""
        w1, b1 = self._first_layer()
        a = F.linear(self._normalised(x.reshape(-1, self.width)), w1, b1)
        return a if self.is_linear else self.linear_2(ACTIVATION[self.activation](a))

    def _score_closed(self, x: Tensor, estimator: Estimator) -> Tensor:
        fold = self.fold(through_norm=False)
        x = self._normalised(x)
        return zoprune_kernels.expected_sensitivity(
            x, fold.w1, fold.b1, fold.metric, activation=self.activation
        )

    def _score_directions(self, x: Tensor, estimator: Estimator) -> Tensor:
        w1, b1 = self._first_layer()
        directions = zoprune_kernels.directions(
            estimator.num_directions,
            self.width,
            distribution=estimator.distribution,
            seed=estimator.seed,
            device=x.device,
        )
        return zoprune_kernels.sensitivity(
            self._normalised(x),
            w1,
            b1,
            self.linear_2.weight,
            directions,
            step=estimator.step,
            activation=self.activation,
        )

    def _score_through_norm(self, x: Tensor, estimator: Estimator) -> Tensor:
        """sqrt(E ||J u||^2) with J = W2 diag(g) sum_p W1_p Gamma N_p / sigma_p."""
        fold = self.fold(through_norm=True)
        patches, _, channels = fold.w1.shape
        xhat, inverse_sigma = self._standardised(x.reshape(-1, patches, channels))
        # the share of each rank-one term, per patch
        tau = (2 - xhat.square().mean(-1)) / channels  # [T, P]
        y = torch.bmm(xhat.to(x.dtype).transpose(0, 1), fold.w1.transpose(1, 2))  # [P, T, H]
        a = y.float().sum(0) + (0 if fold.b1 is None else fold.b1.float())  # [T, H]
        g = DERIVATIVE[self.activation](a)
        total = torch.zeros_like(inverse_sigma[:, 0])  # [T]
        for p in range(patches):
            full = _quadratic_form(g, fold.metric[p])
            parallel = _quadratic_form(g * y[p].float(), fold.gram) / (patches * channels)
            total += inverse_sigma[:, p].square() * (full - tau[:, p] * parallel)
        return total.clamp_min(0).sqrt()

    def _standardised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x - mean) / sigma [T, P, c] and 1 / sigma [T, P] in float32; RMSNorm has no mean."""
        x = x.float()
        if _is_layer_norm(self.norm):
            x = x - x.mean(-1, keepdim=True)
        inverse = torch.rsqrt(x.square().mean(-1) + _epsilon(self.norm))
        return x * inverse[..., None], inverse

    def _normalised(self, x: Tensor) -> Tensor:
        """The input of the first linear layer: x [T, d], each patch normalised."""
        if self.norm is None:
            return x
        return self.norm(x.reshape(x.shape[0], self.patches, -1)).flatten(1)

    def _first_layer(self) -> tuple[Tensor, Tensor | None]:
        """W1 [H, d] with the merge layer folded in, and b1 [H]."""
        w1: Tensor = self.linear_1.weight
        b1: Tensor | None = self.linear_1.bias
        if self.merge is not None:
            if self.merge.bias is not None:
                b1 = F.linear(self.merge.bias, w1, b1)
            w1 = (w1.float() @ self.merge.weight.float()).to(w1.dtype)
        if self.unfolded:  # [H, c P] -> [H, P c]
            w1 = w1.unflatten(1, (-1, self.patches)).transpose(1, 2).flatten(1).contiguous()
        return w1, b1

    # -- folding ----------------------------------------------------------------------------------

    def fold(self, through_norm: bool = True) -> Fold:
        """The folded metric, made once per dtype, device and state of the weights."""
        through_norm = through_norm and self.norm is not None
        key = self._fold_key(through_norm)
        if key not in self._folds:
            start = time.perf_counter()
            with torch.no_grad():
                fold = self._fold_through_norm() if through_norm else self._fold_plain()
            logger.info(
                "folded the projector's metric %s in %.1f s",
                list(fold.metric.shape),
                time.perf_counter() - start,
            )
            # weights that changed never come back: forget what was folded from them
            self._folds = {k: f for k, f in self._folds.items() if k[1:] == key[1:]}
            self._folds[key] = fold
        return self._folds[key]

    def _fold_key(self, through_norm: bool) -> tuple:
        weight = self.linear_1.weight
        versions = tuple(p._version for p in self.parameters())
        return through_norm, weight.dtype, weight.device, versions

    def _fold_plain(self) -> Fold:
        w1, b1 = self._first_layer()
        return Fold(w1, b1, zoprune_kernels.fold_metric(w1, self.linear_2.weight))

    def _fold_through_norm(self) -> Fold:
        w1, b1 = self._first_layer()
        w2, gamma = self.linear_2.weight, self.norm.weight
        beta = getattr(self.norm, "bias", None)
        if beta is not None:
            b1 = F.linear(beta.repeat(self.patches), w1, b1)
        blocks = w1.unflatten(1, (self.patches, -1)).transpose(0, 1).float() * gamma.float()
        if _is_layer_norm(self.norm):
            blocks = blocks - blocks.mean(-1, keepdim=True)
        blocks = blocks.to(w1.dtype).contiguous()  # [P, H, c]
        metric = torch.stack([zoprune_kernels.fold_metric(b, w2) / self.patches for b in blocks])
        gram = (w2.float().T @ w2.float()).to(metric.dtype)
        return Fold(blocks, b1, metric, gram)

    def parameters(self) -> Iterable[Tensor]:
        for layer in (self.norm, self.merge, self.linear_1, self.linear_2):
            if layer is not None:
                yield from layer.parameters()

    def fingerprint(self) -> str:
        """SHA-256 of the weights, which a saved metric must match."""
        digest = hashlib.sha256()
        for p in self.parameters():
            digest.update(p.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save_metric(self, path: str | Path, through_norm: bool = True) -> None:
        """Write the folded metric to a safetensors file."""
        from safetensors.torch import save_file

        fold = self.fold(through_norm)
        tensors = {name: t.contiguous() for name, t in vars(fold).items() if t is not None}
        save_file(tensors, path, {"weights": self.fingerprint()})

    def load_metric(self, path: str | Path) -> None:
        """Read a metric that ``save_metric`` wrote; ValueError if it is of other weights."""
        from safetensors import safe_open

        weight = self.linear_1.weight
        with safe_open(path, "pt", device=str(weight.device)) as file:
            if (file.metadata() or {}).get("weights") != self.fingerprint():
                raise ValueError(f"zoprune: {path}: expected a metric of this projector's weights")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        fold = Fold(**{"b1": None, **tensors})
        self._folds[self._fold_key(fold.gram is not None)] = fold

    def flops(self, through_norm: bool = True) -> int:
        """Floating-point operations to score one token in closed form."""
        hidden = self.linear_1.out_features
        forms = 2 * self.patches if through_norm and self.norm is not None else 1
        return 0 if self.is_linear else 2 * hidden * self.width + forms * 2 * hidden * hidden

    def describe(self) -> str:
        """One line: the layers with their sizes."""
        parts = []
        if self.norm is not None:
            per = f" x {self.patches} patches" if self.patches > 1 else ""
            parts.append(f"{type(self.norm).__name__}({self.norm.weight.shape[0]}{per})")
        layers = [self.merge, self.linear_1, self.activation, self.linear_2]
        for layer in layers if not self.is_linear else layers[:2]:
            if isinstance(layer, str):
                parts.append(layer)
            elif layer is not None:
                bias = "" if layer.bias is None else ", bias"
                parts.append(f"Linear({layer.in_features} -> {layer.out_features}{bias})")
        return " -> ".join(parts)


def find_projector(module: nn.Module) -> Projector:
    """Describe a projector module from its layers, in the order in which they are defined.

    Raises ValueError where it is not ``[norm] -> linear 1 -> activation -> linear 2`` or one linear
    layer, possibly behind a norm and a linear merge.
    """
    norms, linears, activations = [], [], []
    for leaf in module.modules():
        if isinstance(leaf, nn.Linear):
            linears.append(leaf)
        elif _is_layer_norm(leaf) or _is_rms_norm(leaf):
            norms.append(leaf)
        elif not list(leaf.children()) and not list(leaf.parameters()):
            name = activation_name(leaf)
            activations += [name] if name else []
    if len(linears) == 1 and not activations:
        return Projector(linears[0], "identity", None)
    if len(linears) not in (2, 3) or len(activations) != 1 or len(norms) > 1:
        raise ValueError(
            f"zoprune: {type(module).__name__}: expected [norm] -> linear 1 -> activation -> "
            f"linear 2, got {len(norms)} norms, {len(linears)} linear layers and "
            f"{len(activations)} activations"
        )
    merge = linears[0] if len(linears) == 3 else None
    return Projector(linears[-2], activations[0], linears[-1], next(iter(norms), None), merge)


def check_linear(method: str) -> None:
    """A linear projector: warn once per process, as the operators do for activation='identity'.

    ValueError for a method that only ranks scores, which are all equal.
    """
    global _warned
    if method == "topk":
        raise ValueError(
            "zoprune: method: expected one that compares tokens, as a linear projector scores all "
            "alike, got 'topk'"
        )
    if not _warned:
        _warned = True
        warnings.warn(LINEAR_WARNING, stacklevel=3)


def activation_name(module: nn.Module) -> str | None:
    """Which of the supported activations a parameterless module computes; None if none of them."""
    probe = torch.linspace(-4, 4, 65)
    try:
        with torch.no_grad():
            result = module(probe)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None
    for name, function in ACTIVATION.items():
        same = isinstance(result, Tensor) and result.shape == probe.shape
        if name != "identity" and same and torch.allclose(result, function(probe), atol=1e-6):
            return name
    return None


def _is_layer_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm)


def _is_rms_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm")


def _epsilon(norm: Any) -> float:
    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    return torch.finfo(torch.float32).eps if epsilon is None else epsilon


def _quadratic_form(g: Tensor, metric: Any) -> Tensor:
    """g^T M g for each row: g [T, H] float32, M [H, H] -> [T] float32."""
    return (F.linear(g.to(metric.dtype), metric) * g).sum(-1, dtype=torch.float32)
