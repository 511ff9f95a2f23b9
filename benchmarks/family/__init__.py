"""The selection family against the loops of pruning libraries: ``python -m benchmarks.family``."""
