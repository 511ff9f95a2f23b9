"""A projector's weights folded for scoring, kept for as long as the projector computes the same."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

KEPT = 2  # states of the weights: with an adapter and without


@dataclass(frozen=True)
class Fold:
    """The weights in the form that scoring needs; P patches of c channels, d = P c."""

    w1: Tensor  # [H, d], or [P, H, c] through the norm
    b1: Tensor | None  # [H]
    metric: Any = None  # Tensor [H, H], or one for each patch [P, H, H] through the norm
    gram: Any = None  # Tensor [H, H] = W2^T W2, where there is a norm
    covariance: Any = None  # Tensor [H, H] = W1 W1^T / d, with a norm between the layers only
    w2: Any = None  # Tensor [D, H], for random directions only
    kind: str = ""
    probe: Tensor | None = None  # what the projector made of a few fixed rows, [rows, D]

    def save(self, path: str | Path, fingerprint: str) -> None:
        """Write a folded metric to a safetensors file."""
        from safetensors.torch import save_file

        names = ("w1", "b1", "metric", "gram", "covariance")
        tensors = {n: t.contiguous() for n in names if (t := getattr(self, n)) is not None}
        # another process may write or read it too
        partial = Path(f"{path}.{os.getpid()}")
        save_file(tensors, partial, {"weights": fingerprint, "kind": self.kind})
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path, kind: str, fingerprint: str, device: torch.device) -> Fold:
        """Read what ``save`` wrote; ValueError for any other file, or of other weights."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt", device=str(device)) as file:
                notes = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"zoprune: metric: expected a file that prune wrote, got {path}: {error}"
            ) from error
        if notes.get("weights") != fingerprint:
            raise ValueError(
                f"zoprune: metric: expected a metric of this projector's weights, got {path}"
            )
        if notes.get("kind") != kind or not {"w1", "metric"} <= set(tensors):
            raise ValueError(
                f"zoprune: metric: expected one of kind '{kind}', got '{notes.get('kind')}' in "
                f"{path}"
            )
        return cls(**{"b1": None, **tensors}, kind=kind)


class Folds:
    """The folds of a projector by what it computes: its output for a few fixed rows is compared.

    On a GPU the comparison is not waited for. What the host can see is compared at once (other
    tensors, versions, dtypes, a peft adapter that is merged, switched or disabled); a write that
    it cannot see (``weight.data.mul_``) takes effect at the call after the next.
    """

    def __init__(self) -> None:
        self._folds: tuple[tuple[Fold, tuple], ...] = ()
        self._pending: tuple[Fold, Tensor, Any] | None = None

    def __getstate__(self) -> dict:
        return {}  # copies and files hold the weights already

    def __setstate__(self, state: dict) -> None:
        self._folds, self._pending = (), None

    def find(self, kind: str, probe: Tensor, parts: tuple) -> Fold | None:
        """The fold whose projector computed this probe; None if there is none."""
        on_gpu = probe.device.type != "cpu"
        if on_gpu:
            self._settle()
        facts = _facts(parts) if on_gpu else ()
        for fold, known in self._folds:
            if fold.kind != kind or not _comparable(fold.probe, probe):
                continue
            if not on_gpu and bool(_differs(fold.probe, probe)):
                continue
            if on_gpu and known != facts:
                continue
            if on_gpu and self._pending is None and not torch.cuda.is_current_stream_capturing():
                self._pending = _answer(fold, probe)
            return fold
        return None

    def add(self, fold: Fold, parts: tuple) -> None:
        """Keep a fold; those of another dtype or device, and the oldest, go."""
        facts = _facts(parts) if fold.w1.device.type != "cpu" else ()
        alike = [f for f in self._folds if _comparable(f[0].probe, fold.probe)]
        self._folds = ((fold, facts), *alike[: KEPT - 1])

    def _settle(self) -> None:
        """Drop the fold that an earlier call's comparison found to be of other weights."""
        if self._pending is not None and self._pending[2].query():
            stale, differs, _ = self._pending
            self._pending = None
            if bool(differs):
                self._folds = tuple(f for f in self._folds if f[0] is not stale)


def _comparable(a: Tensor | None, b: Tensor | None) -> bool:
    return (
        a is not None
        and b is not None
        and (a.shape, a.dtype, a.device)
        == (
            b.shape,
            b.dtype,
            b.device,
        )
    )


def _differs(a: Any, b: Any) -> Tensor:
    return ((a != b) & ~(a.isnan() & b.isnan())).any()


def _answer(fold: Fold, probe: Tensor) -> tuple[Fold, Tensor, Any]:
    """(fold, whether the probe differs from the fold's, when that is known), without waiting."""
    differs = torch.empty((), dtype=torch.bool, pin_memory=True)
    differs.copy_(_differs(fold.probe, probe), non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return fold, differs, event


ADAPTER = ("merged_adapters", "active_adapters", "disable_adapters", "scaling")


def _facts(parts: tuple) -> tuple:
    """What the host can see of the weights."""
    facts: list[Any] = []
    for module in (m for part in parts if part is not None for m in part.modules()):
        facts.append(tuple(str(getattr(module, name, None)) for name in ADAPTER))
        for t in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            version = 0 if t.is_inference() else t._version
            facts.append((id(t), t.data_ptr() if type(t) is not Tensor else 0, version, t.dtype))
    return tuple(facts)
