"""ZOO-Prune's token scoring and selection as torch operators: ``torch.ops.zoprune.*``."""

from . import ops as ops
