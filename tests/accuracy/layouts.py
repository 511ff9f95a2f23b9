"""Layouts of the small model's pictures, by their seeds."""

import torch

from benchmarks.accuracy import scenes


def drawn(seed: int, size: int = 4, split: str = "dev", **options) -> scenes.Layout:
    return scenes.draw(torch.Generator().manual_seed(seed), split, size, **options)
