"""The operators' namespace: that of this build, so that several versions fit into one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ._ops import add_op_namespace_prefix as add_op_namespace_prefix
from ._ops import ops

NAME = ops.name
LIBRARY = next(Path(__file__).parent.glob(f"{NAME}*.so"))


def define() -> torch.library.Library:
    """The library that defines the operators."""
    return torch.library.Library(NAME, "DEF")


def operator(name: str) -> Any:
    """``torch.ops.<namespace>.<name>``"""
    return getattr(ops, name)
