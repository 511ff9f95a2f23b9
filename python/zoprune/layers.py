"""What a layer computes, whatever stands behind it: plain, adapted, quantised, offloaded, sharded.

Weights are not read off a layer unless it is a plain ``nn.Linear``: its own forward says what they
are. That covers LoRA (base + delta), packed integers, and weights that are elsewhere between calls.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SCALE = 4.0  # of the identity: above a bias, below what 8-bit layers treat as outliers
ROWS = 1024  # of the identity at once


def is_linear(module: nn.Module) -> bool:
    """Whether a module is one linear layer from ``in_features`` to ``out_features``."""
    base = getattr(module, "base_layer", None)  # an adapter around a layer
    if isinstance(base, nn.Module):
        return is_linear(base)
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return isinstance(module, nn.Linear) or all(isinstance(size, int) for size in sizes)


def sizes(layer: Any) -> tuple[int, int]:
    """(in, out) features."""
    base = getattr(layer, "base_layer", None)
    return sizes(base) if isinstance(base, nn.Module) else (layer.in_features, layer.out_features)


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Linear layers, and modules without children, in the order in which they are defined."""
    module = resolved(module)
    children = list(module.children())
    if is_linear(module) or not children:
        yield module
    else:
        for child in children:
            yield from leaves(child)


def parts_of(module: nn.Module) -> list[nn.Module]:
    """All that decides how a projector is described: its modules, and the layers in use."""
    return [*module.modules(), *leaves(module)]


def resolved(module: Any) -> nn.Module:
    """The copy that is used now, where peft trains a copy of a module (``modules_to_save``)."""
    copies, original = (getattr(module, n, None) for n in ("modules_to_save", "original_module"))
    if not isinstance(copies, nn.ModuleDict) or not isinstance(original, nn.Module):
        return module
    active = [name for name in getattr(module, "active_adapters", ()) if name in copies]
    if getattr(module, "disable_adapters", False) or not active:
        return original
    return copies[active[0]]


@contextlib.contextmanager
def undisturbed(*layers: Any) -> Iterator[None]:
    """Without gradients, autocast or dropout."""
    training = [m for layer in layers if layer is not None for m in layer.modules() if m.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for device in {"cpu", "cuda"} & _devices(*layers):
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for module in training:
            module.training = True


def whole(layer: Any) -> Any:
    """A layer, or a copy with whole parameters where its own are sharded (FSDP2, tensor parallel).

    The ranks of the process group have to call it alike.
    """
    if layer is None or not any(map(_is_sharded, (*layer.parameters(), *layer.buffers()))):
        return layer
    return _gathered(layer)


def _is_sharded(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")


def _gathered(module: nn.Module) -> nn.Module:
    """A copy without the hooks by which torch shards and gathers."""
    cls: Any = type(module)
    if hasattr(module, "unshard"):  # FSDP2 puts a class of its own and a mixin before the module's
        cls = cls.__mro__[2]
    copied = cls.__new__(cls)
    state = vars(copied)
    state.update(vars(module))
    for kind in ("_parameters", "_buffers"):
        state[kind] = {
            name: nn.Parameter(_full(t), requires_grad=False) if _is_sharded(t) else t
            for name, t in state[kind].items()
        }
    state["_modules"] = {
        name: child and _gathered(child) for name, child in state["_modules"].items()
    }
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        hooks = state[kind].items()
        state[kind] = OrderedDict((key, f) for key, f in hooks if not is_of(f, "torch.distributed"))
    return copied


def _full(sharded: Any) -> Tensor:
    """Also of a shard that waits on the CPU for a GPU."""
    return sharded.detach().to(sharded.device_mesh.device_type).full_tensor()


def is_of(function: Any, package: str) -> bool:
    """Whether a hook is defined in a package."""
    return f"{getattr(function, '__module__', '')}.".startswith(f"{package}.")


def _devices(*layers: Any) -> set[str]:
    found = {"cpu"}
    for layer in layers:
        found |= set() if layer is None else {execution_device(layer).type}
    return found


def execution_device(layer: nn.Module) -> torch.device:
    """Where a layer computes, also when accelerate keeps its weights elsewhere between calls."""
    for module in layer.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    tensors = [*layer.parameters(), *layer.buffers()]
    return next((t.device for t in tensors if not t.is_meta), torch.device("cpu"))


def is_plain(layer: Any) -> bool:
    """Whether the forward is that of ``nn.Linear`` on weights that can be read as they are."""
    tensors = [t for t in layer.parameters() if t is not None] if type(layer) is nn.Linear else []
    untouched = type(layer) is nn.Linear and not (
        "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks
    )
    return untouched and all(
        type(t) in (Tensor, nn.Parameter) and t.dtype in DTYPES and not t.is_meta for t in tensors
    )


def weights(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """(weight [out, in], bias [out] or None) of what a linear layer computes now, in ``dtype``.

    Call it within ``undisturbed(layer)``. ValueError where the layer is not linear or cannot run.
    """
    if is_plain(layer):
        _check_is_here(layer)
        bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        return layer.weight.detach().to(dtype), bias
    return _from_forward(layer, dtype)


def _check_is_here(layer: Any) -> None:
    """FullyShardedDataParallel leaves a part of the weight or none of it between calls."""
    width, out = sizes(layer)
    shape, held = list(layer.weight.shape), layer.weight.untyped_storage().nbytes()
    if shape != [out, width] or (held == 0 and layer.weight.numel()):
        raise ValueError(
            f"zoprune: {describe(layer)}: expected a weight [{out}, {width}] that is here, got "
            f"{shape} on {held} bytes. Shard with fully_shard; or prune before the model is "
            "wrapped in FullyShardedDataParallel, with the projector in the outermost unit"
        )


def _from_forward(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """layer(identity) - layer(0), and layer(0)."""
    width, out = sizes(layer)
    device, given = execution_device(layer), dtype_of(layer) or dtype
    try:
        zero = layer(torch.zeros(1, width, dtype=given, device=device)).float()  # [1, out]
        parts = []
        for start in range(0, width, ROWS):
            rows = torch.zeros(min(ROWS, width - start), width, dtype=given, device=device)
            rows.diagonal(start).fill_(SCALE)
            parts.append(((layer(rows).float() - zero) / SCALE).to(dtype))
        weight = torch.cat(parts).T.contiguous()  # [out, in]
        probe = probes(width, given, device)
        got = layer(probe).float()
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"zoprune: {describe(layer)}: expected a linear layer that runs on {device} in "
            f"{given}, got {type(error).__name__}: {str(error).splitlines()[0]}. Leave the "
            "projector out of the quantisation, or choose a method that needs no scores"
        ) from error
    bias = zero[0].to(dtype)
    expected = probe.float() @ weight.float().T + zero
    far = (got - expected).abs().max() > 0.05 * expected.abs().max()
    if weight.shape != (out, width) or bool(far):
        raise ValueError(
            f"zoprune: {describe(layer)}: expected a linear layer from {width} to {out} features, "
            f"got one that does more than that"
        )
    return weight.to(dtype), bias if bool(bias.any()) else None


def dtype_of(*layers: Any) -> torch.dtype | None:
    """The floating-point dtype that layers compute in; None where nothing tells."""
    for layer in layers:
        if layer is not None:
            for t in (*layer.parameters(), *layer.buffers()):
                if t.dtype in (*DTYPES, torch.float64):
                    return t.dtype
    return None


def probes(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A few fixed random rows [3, width]."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(3, width, generator=generator).to(device, dtype)


def describe(layer: Any) -> str:
    """A layer's class and sizes, with the dtype of weights that are no plain floats."""
    dtype = getattr(getattr(layer, "weight", None), "dtype", None)
    stored = "" if dtype is None or dtype in DTYPES else f", {dtype}"
    return f"{type(layer).__name__}({' -> '.join(map(str, sizes(layer)))}{stored})"
