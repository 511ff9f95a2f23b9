"""The operators' namespace, which a process has once. A leaf: it imports nothing of this package.

A package that is built for the Hugging Face kernels hub has another version of this file, with a
name of its own, so that several of them fit into one process (``release/hub.py``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

NAME = "zoprune"
LIBRARY = Path(__file__).with_name("libzoprune.so")


def define() -> torch.library.Library:
    """The library that defines the operators.

    Raises:
        ImportError: another copy of the package, or this one before a reload, has defined them.
    """
    try:
        return torch.library.Library(NAME, "DEF")
    except RuntimeError as error:
        first = re.search(
            r"Previous registration of TORCH_LIBRARY was registered at (.*?):\d+;", str(error)
        )
        if first is None:
            raise
        here = Path(__file__).parent
        owner = next((p for p in Path(first[1]).parents if p.name == here.name), Path(first[1]))
        what = "was loaded before and cannot be reloaded" if owner == here else f"is {owner}"
        raise ImportError(
            f"zoprune_kernels: a process has one copy of torch.ops.{NAME}; the first {what}. "
            f"{here} was to be the second: start a new process, or import only one of them"
        ) from None


def add_op_namespace_prefix(name: str) -> str:
    """``zoprune::<name>``; the hub's tools look for this name where operators are registered."""
    return f"{NAME}::{name}"


def operator(name: str) -> Any:
    """``torch.ops.zoprune.<name>``"""
    return getattr(getattr(torch.ops, NAME), name)
