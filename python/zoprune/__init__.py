"""Model-level visual token pruning on top of ``zoprune_kernels``.

Example::

    model = zoprune.prune(model, keep=64)  # a Hugging Face model; generate() as before
    print(zoprune.report(model))  # after a call: 64 of 576
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budgets import keep
    from .calls import report
    from .hf.prune import prune, restore
    from .module import PrunedProjector

__version__ = "0.1.0"
__all__ = ["PrunedProjector", "keep", "prune", "report", "restore"]

_MODULES = {
    "PrunedProjector": "module",
    "keep": "budgets",
    "prune": "hf.prune",
    "report": "calls",
    "restore": "hf.prune",
}


if not TYPE_CHECKING:  # for which unknown names are errors

    def __getattr__(name: str) -> Any:
        """Import torch at the first use, not before: the command line's help needs none of it."""
        if name not in _MODULES:
            raise AttributeError(f"module 'zoprune' has no attribute '{name}'")
        value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """What ``zoprune.<Tab>`` offers."""
    return [*__all__, "__version__"]
