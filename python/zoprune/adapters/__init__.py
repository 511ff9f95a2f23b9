"""Token pruning methods of other projects on top of ``zoprune_kernels``, with their signatures.

One module for each method, so that a call site changes by one import (docs/adapters.md)::

    from zoprune.adapters.divprune import DivPrune
"""

from . import (
    adaptprune,
    cdpruner,
    divprune,
    greedyprune,
    mmr,
    swiftvlm,
    topv,
    visionzip,
    zoo_prune,
    zspaprune,
)

__all__ = [
    "adaptprune",
    "cdpruner",
    "divprune",
    "greedyprune",
    "mmr",
    "swiftvlm",
    "topv",
    "visionzip",
    "zoo_prune",
    "zspaprune",
]
