"""Every private name of torch that this package uses: one place to mend where torch moves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .namespace import add_op_namespace_prefix

DispatchKeys = torch._C.DispatchKeySet
# What torch.func itself derives from, level by level: within an operator's autograd kernel its
# transforms have done their part, and torch.autograd.Function would hand the call back to them.
SingleLevelFunction = torch.autograd.function._SingleLevelFunction


def has_kernel(operator: str, device: str) -> bool:
    """Whether a kernel of ``zoprune::<operator>`` is registered for a device type."""
    name = add_op_namespace_prefix(operator)
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper())


def call_for_device(overload: Any, kind: str, *arguments: Any, **options: Any) -> Any:
    """Call an operator's kernel for a device type, whatever the arguments."""
    key = torch._C._dispatch_key_parse(torch._C._dispatch_key_for_device(kind))
    return overload.redispatch(DispatchKeys(key), *arguments, **options)


def call_below_autograd(
    overload: Any, keys: DispatchKeys, arguments: Sequence[Any], options: dict[str, Any]
) -> Any:
    """Go on from an operator's autograd kernel to the kernel that computes."""
    with torch._C._AutoDispatchBelowAutograd():
        return overload.redispatch(keys & torch._C._after_autograd_keyset, *arguments, **options)


def has_tangent(tensor: Tensor) -> bool:
    """Whether forward-mode differentiation goes through a tensor."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


def apply_function(function: type[SingleLevelFunction], *arguments: Any) -> Any:
    """``function.apply`` within an operator's autograd kernel."""
    from torch._functorch.utils import enable_single_level_autograd_function

    with enable_single_level_autograd_function():
        return function.apply(*arguments)  # type: ignore[attr-defined]
