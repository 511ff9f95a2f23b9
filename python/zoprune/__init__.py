"""Model-level visual token pruning on top of ``zoprune_kernels``."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .module import PrunedProjector
    from .pruning import prune, restore
    from .reports import report
    from .settings import keep

__all__ = ["PrunedProjector", "keep", "prune", "report", "restore"]

_MODULES = {
    "PrunedProjector": "module",
    "keep": "settings",
    "prune": "pruning",
    "report": "reports",
    "restore": "pruning",
}


def __getattr__(name: str) -> Any:
    """Import torch at the first use, not before: the command line's help needs none of it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'zoprune' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value
