"""Errors that a person can act on."""

from __future__ import annotations

import importlib
from types import ModuleType


class UsageError(Exception):
    """Bad input: the command line prints the message and exits with status 2."""


def require(module: str, install: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which one to install and what it is for."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{purpose} needs {module}: pip install {install}") from error
