"""Model-level visual token pruning on top of ``zoprune_kernels``."""

from .module import PrunedProjector
from .pruning import prune, restore
from .reports import report
from .settings import keep

__all__ = ["PrunedProjector", "keep", "prune", "report", "restore"]
