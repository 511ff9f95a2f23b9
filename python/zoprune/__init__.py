"""Model-level visual token pruning on top of ``zoprune_kernels``."""
