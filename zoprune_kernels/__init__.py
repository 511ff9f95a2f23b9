"""ZOO-Prune's token scoring and selection as torch operators: ``torch.ops.zoprune.*``.

Each is also a typed, documented function of this package: ``help(zoprune_kernels.select)``.
"""

from . import backend as backend
from . import operators
from .operators import *  # noqa: F403

__version__ = "0.1.0"

__all__ = operators.__all__
