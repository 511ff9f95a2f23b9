"""Errors that a person can act on."""

from __future__ import annotations

import importlib

# What pip calls the packages that are imported by another name.
_ON_THE_INDEX = {"PIL": "pillow", "skimage": "scikit-image"}


class UsageError(Exception):
    """Bad input: the command line prints the message and exits with status 2."""


def need(purpose: str, extra: str, *modules: str) -> None:
    """Import optional packages, or say in one message which ones to install and what for."""
    missing, broken = [], []
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing.append(_ON_THE_INDEX.get(error.name or module, error.name or module))
        except ImportError as error:  # it is there, and does not fit what it is built on
            broken.append(f"{module} ({first_line(error)})")
    if missing:
        names = list(dict.fromkeys(missing))
        raise UsageError(
            f"{purpose} needs {_listed(names)}: pip install {' '.join(names)} "
            f"(zoprune_kernels[{extra}])"
        )
    if broken:
        raise UsageError(f"{purpose} needs what is here but cannot be imported: {_listed(broken)}")


def first_line(error: Exception) -> str:
    """What an exception says, in one line: its first, and the second if that goes on there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
