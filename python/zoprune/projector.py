"""What a projector is made of, and how strongly it reacts to each token.

A projector is ``[norm] -> [merge] -> linear 1 -> activation -> linear 2``: the norm acts on each
patch, neighbouring patches are concatenated, and a merge layer, where there is one, is linear. In
place of the first norm there may be one before linear 2. How each form scores is in ``forms.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoprune_kernels.reference import ACTIVATION, derivative

from . import layers, norms
from .estimator import Estimator as Estimator
from .estimator import refuse
from .forms import FORMS
from .metric import Fold, Folds
from .selection import Rule

logger = logging.getLogger("zoprune")
LINEAR_WARNING = (
    "zoprune: the projector is one linear layer: every token has the same sensitivity; "
    "selecting by diversity only"
)
_warned = False
CHUNK = 4096  # tokens scored at once: bounds the extra memory at a few [CHUNK, H] matrices


@dataclass(eq=False)
class Projector:
    """A projector's layers; weights stay those of the model.

    ``linear_2`` is None for a projector that is one linear layer: no token is more sensitive than
    another, ``score`` returns ones.
    """

    LINEARS: ClassVar[tuple[str, ...]] = ("linear_1", "linear_2", "merge")

    linear_1: Any  # a linear layer of any kind, see ``layers.is_linear``
    activation: str
    linear_2: Any  # a linear layer or None
    norm: Any = None  # a LayerNorm, an RMSNorm or None
    merge: Any = None  # a linear layer or None
    unfolded: bool = False  # the merge layer reads channel by channel, as ``unfold`` lays patches
    inner_norm: Any = None  # a norm between the activation and linear_2
    folds: Folds = field(default_factory=Folds, repr=False)

    @property
    def is_linear(self) -> bool:
        return self.linear_2 is None

    @property
    def width(self) -> int:
        """d, the channels of one token at the projector's input."""
        return layers.sizes(self.merge or self.linear_1)[0]

    @property
    def patches(self) -> int:
        """P, how many separately normalised patches are concatenated into one token."""
        return 1 if self.norm is None else self.width // norms.channels_of(self.norm, self.width)

    @property
    def linears(self) -> tuple[Any, ...]:
        """The linear layers, None where there is none."""
        return tuple(getattr(self, name) for name in self.LINEARS)

    @property
    def parts(self) -> tuple[Any, ...]:
        """The layers that have weights, None where there is none."""
        return *self.linears, self.norm, self.inner_norm

    @property
    def dtype(self) -> torch.dtype | None:
        """What the layers compute in; None where nothing tells (packed weights without a bias)."""
        return layers.dtype_of(*self.parts)

    def score(self, x: Tensor, estimator: Estimator) -> Tensor:
        """Sensitivity of each token: x [..., d] before the norm, any float dtype -> float32 [T].

        Autocast changes nothing. The weights are those that the layers have now.
        """
        x = x.detach().reshape(-1, self.width)  # [T, d]
        if self.is_linear:
            return x.new_ones(x.shape[0], dtype=torch.float32)
        form = FORMS[self.form(estimator)]
        with self._ready() as ready:
            x = x.to(self.dtype or x.dtype)
            fold = self._fold(ready, estimator, x.dtype, x.device)
            chunks = [form.score(ready, chunk, fold, estimator) for chunk in x.split(CHUNK)]
            return torch.cat(chunks)

    def project(self, x: Tensor) -> Tensor:
        """The outputs by the layers' own forward: x [..., d] before the norm -> [T, D]."""
        x = self.normalised(x.reshape(-1, self.width))
        if self.unfolded:
            x = x.unflatten(1, (self.patches, -1)).transpose(1, 2).flatten(1)
        if self.merge is not None:
            x = self.merge(x)
        x = self.linear_1(x)
        if self.is_linear:
            return x
        x = ACTIVATION[self.activation](x)
        return self.linear_2(x if self.inner_norm is None else self.inner_norm(x))

    def normalised(self, x: Tensor) -> Tensor:
        """The input of the layer after the norm: x [T, d], each patch normalised."""
        if self.norm is None:
            return x
        return self.norm(x.reshape(x.shape[0], self.patches, -1)).flatten(1)

    def first_layer(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """W1 [H, d] with the merge layer folded in, and b1 [H]."""
        w1, b1 = layers.weights(self.linear_1, dtype)
        if self.merge is not None:
            merge, bias = layers.weights(self.merge, dtype)
            if bias is not None:
                b1 = F.linear(bias, w1, b1)
            w1 = (w1.float() @ merge.float()).to(w1.dtype)
        if self.unfolded:  # [H, c P] -> [H, P c]
            w1 = w1.unflatten(1, (-1, self.patches)).transpose(1, 2).flatten(1).contiguous()
        return w1, b1

    def second_layer(self, dtype: torch.dtype) -> Tensor:
        """W2 [D, H]."""
        return layers.weights(self.linear_2, dtype)[0]

    def derivative(self, a: Tensor) -> Tensor:
        """What a change of the first layer's outputs a [T, H] is multiplied by, float32."""
        return derivative(self.activation, a)

    def form(self, estimator: Estimator) -> str:
        """Which of ``FORMS`` scores."""
        if self.inner_norm is not None:
            if estimator.name != "closed":
                expected = "'closed' with a norm between the layers"
                refuse("estimator", expected, repr(estimator.name))
            return "inner norm"
        through = estimator.name == "closed" and estimator.through_norm and self.norm is not None
        return "through norm" if through else estimator.name

    @contextlib.contextmanager
    def _ready(self) -> Iterator[Projector]:
        """This projector without gradients, autocast or dropout, with whole weights.

        Sharded weights are gathered here and nowhere else, so that the ranks of a process group
        agree on the order in which they communicate, whatever each of them has folded before.
        """
        with layers.undisturbed(*self.parts):
            parts = [layers.whole(part) for part in self.parts]
            if all(new is old for new, old in zip(parts, self.parts, strict=True)):
                yield self
            else:
                names = (*self.LINEARS, "norm", "inner_norm")
                yield replace(self, **dict(zip(names, parts, strict=True)))

    def fold(self, estimator: Estimator | None = None) -> Fold:
        """The layers' weights in the form that scoring needs, made once for each state of them."""
        with self._ready() as ready:
            return self._fold(ready, estimator or Estimator(), *ready._place())

    def _place(self) -> tuple[torch.dtype, torch.device]:
        dtype = self.dtype or torch.get_default_dtype()
        return dtype, layers.execution_device(self.linear_1)

    def _fold(
        self, ready: Projector, estimator: Estimator, dtype: torch.dtype, device: torch.device
    ) -> Fold:
        kind = self.form(estimator)
        try:
            probe = ready.project(layers.probes(self.width, dtype, device))
        except (RuntimeError, NotImplementedError, TypeError):
            for layer in ready.linears:
                if layer is not None:
                    layers.weights(layer, dtype)  # its error names the layer
            raise
        fold = self.folds.find(kind, probe, self.parts)
        if fold is None:
            start = time.perf_counter()
            scored = dtype if dtype in layers.DTYPES else torch.float32
            fold = replace(FORMS[kind].fold(ready, scored), kind=kind, probe=probe)
            self.folds.add(fold, self.parts)
            if fold.metric is not None:
                seconds = time.perf_counter() - start
                shape = list(fold.metric.shape)
                logger.info("folded the projector's metric %s in %.1f s", shape, seconds)
        return fold

    def use_metric(self, path: str | Path, estimator: Estimator | None = None) -> None:
        """Read the folded metric from a safetensors file, or write it where there is none.

        ValueError if the file is of other weights.
        """
        estimator = estimator or Estimator()
        with self._ready() as ready:
            dtype, device = ready._place()
            if not Path(path).exists():
                fold = self._fold(ready, estimator, dtype, device)
                fold.save(path, ready._fingerprint(dtype))
                return
            fold = Fold.load(path, self.form(estimator), ready._fingerprint(dtype), device)
            probe = ready.project(layers.probes(self.width, dtype, device))
        self.folds.add(replace(fold, probe=probe), self.parts)

    def _fingerprint(self, dtype: torch.dtype) -> str:
        """SHA-256 of what the layers compute, which a saved metric must match."""
        digest = hashlib.sha256()
        linear = [p for p in self.linears if p is not None]
        tensors = [t for p in linear for t in layers.weights(p, dtype)]
        for norm in (self.norm, self.inner_norm):
            tensors += norms.affine(norm, dtype) if norm is not None else ()
        for t in tensors:
            if t is not None:
                digest.update(t.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def flops(self, through_norm: bool = True) -> int:
        """Floating-point operations to score one token in closed form."""
        hidden = layers.sizes(self.linear_1)[1]
        forms = 2 * self.patches if through_norm and self.norm is not None else 1
        return 0 if self.is_linear else 2 * hidden * self.width + forms * 2 * hidden * hidden

    def describe(self) -> str:
        """One line: the layers with their sizes."""
        parts = []
        if self.norm is not None:
            per = f" x {self.patches} patches" if self.patches > 1 else ""
            parts.append(f"{type(self.norm).__name__}({self.width // self.patches}{per})")
        inner = self.inner_norm and f"{type(self.inner_norm).__name__}"
        chain = [self.merge, self.linear_1, self.activation, inner, self.linear_2]
        for layer in chain if not self.is_linear else chain[:2]:
            if isinstance(layer, str):
                parts.append(layer)
            elif layer is not None:
                bias = "" if getattr(layer, "bias", None) is None else ", bias"
                parts.append(f"Linear({' -> '.join(map(str, layers.sizes(layer)))}{bias})")
        return " -> ".join(parts)


def find_projector(module: nn.Module) -> Projector:
    """Describe a projector module from its layers, in the order in which they are defined.

    Raises ValueError where it is not ``[norm] -> linear 1 -> activation -> linear 2`` or one linear
    layer, possibly behind a norm and a linear merge.
    """
    chain: list[tuple[str, Any]] = []
    for leaf in layers.leaves(module):
        if layers.is_linear(leaf):
            chain.append(("linear", leaf))
        elif norms.is_layer_norm(leaf) or norms.is_rms_norm(leaf):
            chain.append(("norm", leaf))
        elif not list(leaf.parameters()) and (name := activation_name(leaf)):
            chain.append(("activation", name))
    kinds = [kind for kind, _ in chain]
    linears, found, names = (
        [part for k, part in chain if k == kind] for kind in ("linear", "norm", "activation")
    )
    if len(linears) == 1 and not names:
        return Projector(linears[0], "identity", None)
    _check_chain(module, linears)
    inner = kinds[-3:] == ["activation", "norm", "linear"]
    if len(linears) not in (2, 3) or len(names) != 1 or len(found) > 1 or "norm" in kinds[1:-2]:
        raise ValueError(
            f"zoprune: {type(module).__name__}: expected [norm] -> linear 1 -> activation -> "
            f"linear 2, or the norm before linear 2, got {len(found)} norms, {len(linears)} linear "
            f"layers and {len(names)} activations that are modules and one of "
            f"{', '.join(ACTIVATION)}: {', '.join(kinds)}"
        )
    norm = next(iter(found), None)
    return Projector(
        linears[-2],
        names[0],
        linears[-1],
        norm=None if inner else norm,
        merge=linears[0] if len(linears) == 3 else None,
        inner_norm=norm if inner else None,
    )


def _check_chain(module: nn.Module, linears: list[Any]) -> None:
    sizes = [layers.sizes(layer) for layer in linears]
    if any(out != into for (_, out), (into, _) in itertools.pairwise(sizes)):
        chain = ", ".join(f"{into} -> {out}" for into, out in sizes)
        raise ValueError(
            f"zoprune: {type(module).__name__}: expected linear layers defined in the order in "
            f"which they run, each as wide as what comes before it, got {chain}"
        )


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


def prepare(
    projector: Projector, estimator: Estimator, rule: Rule, metric: str | Path | None
) -> None:
    """Fold what scoring needs, or read it from a file, or write that where there is none."""
    reasons = {
        "a linear projector": projector.is_linear,
        f"estimator '{estimator.name}'": estimator.name != "closed",
        f"method '{rule.method}', which needs no scores": not rule.uses_scores,
    }
    for why in (why for why, holds in reasons.items() if holds and metric is not None):
        raise ValueError(f"zoprune: metric: expected None with {why}, got {metric}")
    if projector.is_linear or not rule.uses_scores:
        return
    if metric is None:
        projector.fold(estimator)
    elif not Path(metric).parent.is_dir():
        raise ValueError(f"zoprune: metric: expected a file in a folder that exists, got {metric}")
    else:
        projector.use_metric(metric, estimator)


def activation_of(module: nn.Module) -> str:
    """The name of a module's activation; ValueError where it is none of the supported ones."""
    name = activation_name(module)
    if name is None:
        known = ", ".join(name for name in ACTIVATION if name != "identity")
        raise ValueError(f"zoprune: activation: expected one of {known}, got {module}")
    return name


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
