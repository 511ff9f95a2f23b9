"""Offline at scale: images to pruned visual features on Ray Data workers.

``prune_images("photos/", CHECKPOINT, "features/", keep=64, workers=8)``; see docs/vllm.md.
"""

from .job import prune_images
from .shards import read_shards

__all__ = ["prune_images", "read_shards"]
