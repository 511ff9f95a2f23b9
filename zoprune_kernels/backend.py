"""Which backend runs an operator, and why not a faster one.

``ZOPRUNE_BACKEND`` is read once, when the package is imported: ``auto`` (the default) takes the
first available backend of the device; ``cuda``, ``triton``, ``cpu`` or ``reference`` forces one.
A forced backend that cannot run is an error: at import if no operator can use it, else at the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from . import _native, _torch, namespace
from .environment import BACKENDS as BACKENDS
from .environment import requested
from .operators import OPERATORS
from .triton import register

PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}

native_error = (
    "not loaded, because ZOPRUNE_BACKEND=reference" if requested == "reference" else _native.load()
)
# Asked before anything else registers for a device.
native_kernels = {
    (op, device) for op in OPERATORS for device in PREFERENCE if _torch.has_kernel(op, device)
}


def why_not(op: str, backend: str, device: str) -> str | None:
    """Why ``backend`` cannot run ``op`` on tensors of a device type; None where it can."""
    if backend not in PREFERENCE[device]:
        return f"it does not take {device} tensors"
    if backend == "reference":
        return None
    if device == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if backend == "triton":
        return register.why_not(op)
    if native_error is not None:
        return f"native library: {native_error}"
    if backend == "cuda" and not _native.build_info().get("cuda"):
        return "the native library was built without CUDA"
    if (op, device) not in native_kernels:
        return f"no {backend} kernel"
    return None


def candidates(op: str, device: str) -> list[tuple[str, str | None]]:
    """The backends of ``op`` for a device type, fastest first, each with ``why_not``."""
    backends = PREFERENCE[device] if requested == "auto" else (requested,)
    return [(backend, why_not(op, backend, device)) for backend in backends]


def _refuse(op: str, device: str, reason: str) -> Callable[..., NoReturn]:
    def refuse(*_args: Any, **_options: Any) -> NoReturn:
        raise RuntimeError(
            f"zoprune::{op}: ZOPRUNE_BACKEND={requested} cannot run on {device} tensors: {reason}"
        )

    return refuse


_library = torch.library.Library(namespace.NAME, "IMPL")


def _enforce() -> None:
    """Make every call that the forced backend cannot serve an error."""
    refused = [
        (op, device, reason)
        for op in OPERATORS
        for device in PREFERENCE
        for _, reason in candidates(op, device)
        if reason is not None
    ]
    if len(refused) == len(OPERATORS) * len(PREFERENCE):
        own = "cpu" if requested == "cpu" else "cuda"
        reason = next(reason for _, device, reason in refused if device == own)
        raise RuntimeError(f"ZOPRUNE_BACKEND={requested} cannot run: {reason}")
    for op, device, reason in refused:
        key = device.upper()
        _library.impl(op, _refuse(op, device, reason), key, allow_override=True)


def _route_directions(num: int, dim: int, *, device: Any = None, **options: Any) -> torch.Tensor:
    """``directions`` takes no tensor: the dispatcher finds its backend by ``device``."""
    overload = namespace.operator("directions").default
    kind = torch.device(device or "cpu").type
    return _torch.call_for_device(overload, kind, num, dim, device=device, **options)


def _register_triton() -> None:
    for op in register.OPERATORS:
        if (op, "cuda") not in native_kernels and register.why_not(op) is None:
            register.register(_library, op, forced=requested == "triton")


_library.impl("directions", _route_directions, "BackendSelect")
if requested in ("auto", "triton"):
    _register_triton()
if requested != "auto":
    _enforce()
