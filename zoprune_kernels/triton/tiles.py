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


def _tiles(linear: Tile, directions: Tile, largest: Tile, **others: Tile) -> Tiles:
    """``largest`` wherever ``others`` do not say otherwise."""
    large = dict.fromkeys(Tiles._fields[2:], largest)
    return Tiles(linear, directions, **(large | others))


def _without_tma(*tiles: Tile, **others: Tile) -> Tiles:
    return Tiles(*(tile._replace(tma=False) for tile in _tiles(*tiles, **others)))


# Columns: m, n, k, warps, stages. By arithmetic, then by the least compute capability.
_IN_REGISTERS = [Tile(64, 64, 16, 8, 3)] * 3  # the whole depth: there are no tensor cores
_TILES: dict[str, dict[int, Tiles]] = {
    "half": {
        80: _without_tma(
            Tile(64, 128, 32, 8, 4),
            Tile(64, 64, 32, 4, 3),
            Tile(128, 128, 32, 8, 4),
            difference=Tile(64, 128, 32, 8, 3),
        ),
        90: _tiles(
            Tile(64, 128, 64, 8, 4),
            Tile(64, 64, 32, 4, 3),
            Tile(128, 256, 64, 8, 4),
            difference=Tile(128, 256, 32, 8, 3),
        ),
    },
    "tf32": {
        80: _without_tma(Tile(64, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3), Tile(64, 128, 32, 8, 3)),
        90: _tiles(
            Tile(64, 128, 32, 8, 3),
            Tile(64, 64, 32, 4, 3),
            Tile(128, 128, 32, 8, 3),
            quadratic=Tile(128, 128, 32, 8, 4),
        ),
    },
    "ieee": {
        80: _without_tma(*_IN_REGISTERS),
        90: _tiles(*_IN_REGISTERS),
        100: _tiles(*_IN_REGISTERS, difference=Tile(64, 64, 16, 8, 2)),  # three stages spill
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
