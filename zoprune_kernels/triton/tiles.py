"""The tile of every matrix product, by arithmetic and architecture; nothing is tuned at run time.

A tile depends on nothing else, so an image's bits never depend on its batch.
``benchmarks/gpu/tune.py`` measures the alternatives on a GPU; docs/kernels.md has the reasoning.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .launch import Tile
from .numerics import dot_precision


class Tiles(NamedTuple):
    linear: Tile
    directions: Tile  # the few rows of U W1^T
    derivative: Tile  # the three forms of the sensitivity; their n is one, they share partial sums
    cubic: Tile
    difference: Tile
    quadratic: Tile  # also the projector's second layer


# Columns: m, n, k, warps, stages. By arithmetic, then by the least compute capability.
_TILES: dict[str, dict[int, Tiles]] = {
    "half": {
        80: Tiles(
            linear=Tile(64, 128, 32, 8, 4, tma=False),
            directions=Tile(64, 64, 32, 4, 3, tma=False),
            derivative=Tile(128, 128, 32, 8, 4, tma=False),
            cubic=Tile(128, 128, 32, 8, 4, tma=False),
            difference=Tile(64, 128, 32, 8, 3, tma=False),
            quadratic=Tile(128, 128, 32, 8, 4, tma=False),
        ),
        90: Tiles(
            linear=Tile(64, 128, 64, 8, 4),
            directions=Tile(64, 64, 32, 4, 3),
            derivative=Tile(128, 256, 64, 8, 4),
            cubic=Tile(128, 256, 64, 8, 4),
            difference=Tile(128, 256, 32, 8, 3),
            quadratic=Tile(128, 256, 64, 8, 4),
        ),
    },
    "tf32": {
        80: Tiles(
            linear=Tile(64, 64, 32, 8, 3, tma=False),
            directions=Tile(64, 64, 32, 4, 3, tma=False),
            derivative=Tile(64, 128, 32, 8, 3, tma=False),
            cubic=Tile(64, 128, 32, 8, 3, tma=False),
            difference=Tile(64, 128, 32, 8, 3, tma=False),
            quadratic=Tile(64, 128, 32, 8, 3, tma=False),
        ),
        90: Tiles(
            linear=Tile(64, 128, 32, 8, 3),
            directions=Tile(64, 64, 32, 4, 3),
            derivative=Tile(128, 128, 32, 8, 3),
            cubic=Tile(128, 128, 32, 8, 3),
            difference=Tile(128, 128, 32, 8, 3),
            quadratic=Tile(128, 128, 32, 8, 4),
        ),
    },
    "ieee": {  # no tensor cores: the whole depth of a tile is held in registers
        80: Tiles(
            linear=Tile(64, 64, 16, 8, 3, tma=False),
            directions=Tile(64, 64, 16, 8, 3, tma=False),
            derivative=Tile(64, 64, 16, 8, 3, tma=False),
            cubic=Tile(64, 64, 16, 8, 3, tma=False),
            difference=Tile(64, 64, 16, 8, 3, tma=False),
            quadratic=Tile(64, 64, 16, 8, 3, tma=False),
        ),
        90: Tiles(
            linear=Tile(64, 64, 16, 8, 3),
            directions=Tile(64, 64, 16, 8, 3),
            derivative=Tile(64, 64, 16, 8, 3),
            cubic=Tile(64, 64, 16, 8, 3),
            difference=Tile(64, 64, 16, 8, 3),
            quadratic=Tile(64, 64, 16, 8, 3),
        ),
    },
}


def tiles(device: torch.device, dtype: torch.dtype) -> Tiles:
    """The tiles for a GPU and the dtype of the operands."""
    major, minor = torch.cuda.get_device_capability(device)
    return for_capability(10 * major + minor, dtype)


def processors(device: torch.device) -> int:
    """Programs of a persistent kernel: one for each multiprocessor."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def for_capability(capability: int, dtype: torch.dtype) -> Tiles:
    table = _TILES["half" if dtype != torch.float32 else dot_precision(dtype)]
    return table[max(known for known in table if known <= capability)]
