"""``python -m benchmarks.gpu.tune``: times candidate tiles of the Triton kernels on this GPU.

Prints each kernel's candidates, fastest first, beside the tile that zoprune_kernels/triton/tiles.py
holds; nothing is changed. LLaVA-1.5's projector, 64 directions.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator

import torch

from zoprune_kernels.triton import linear, quadratic, sensitivity, tiles
from zoprune_kernels.triton.launch import Tile

from .timing import seconds_per_call

_TOKENS, _DEPTH, _HIDDEN, _OUTPUTS, _NUM, _STEP = 576, 1024, 4096, 4096, 64, 0.01


def candidates(now: Tile) -> Iterator[Tile]:
    """Tiles around the present one; those that do not fit the GPU fail and are left out."""
    blocks = itertools.product((64, 128), (64, 128, 256), (32, 64), (4, 8), (3, 4, 5))
    for m, n, k, warps, stages in blocks:
        yield Tile(m, n, k, warps, stages, now.tma)


def launches(dtype: torch.dtype) -> dict[str, Callable[[Tile], object]]:
    """By field of ``tiles.Tiles``: one launch with the tile given."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda") / shape[-1] ** 0.5

    x, w1 = random(_TOKENS, _DEPTH).to(dtype), random(_HIDDEN, _DEPTH).to(dtype)
    w2, metric = random(_OUTPUTS, _HIDDEN).to(dtype), random(_HIDDEN, _HIDDEN).to(dtype)
    u = torch.ops.zoprune.directions(_NUM, _DEPTH, device="cuda")
    table = tiles.tiles(x.device, dtype)
    outputs = {"projected": True, "slope": dtype, "cubic": True, "preactivation": True}
    first = linear.linear(x, w1, None, "gelu", table.linear, **outputs)
    v = sensitivity.project_directions(u, w1, _STEP, "gelu", table.directions)
    programs = tiles.processors(x.device)

    def score(form: int) -> Callable[[Tile], object]:
        forced = v._replace(form=torch.full_like(v.form, form))
        return lambda tile: sensitivity.partial_norms(
            first, forced, w2, "gelu", tiles.Tiles(*[tile] * 6), programs, (form,)
        )

    return {
        "linear": lambda tile: linear.linear(
            x, w1, None, "gelu", tile, projected=True, slope=dtype
        ),
        "directions": lambda tile: sensitivity.project_directions(u, w1, _STEP, "gelu", tile),
        "derivative": score(sensitivity.DERIVATIVE),
        "cubic": score(sensitivity.CUBIC),
        "difference": score(sensitivity.DIFFERENCE),
        "quadratic": lambda tile: quadratic.project_and_quadratic(
            first.projected, w2, None, first.slope, metric, tile
        ),
    }


def microseconds(launch: Callable[[Tile], object], tile: Tile) -> float | None:
    try:
        return statistics.median(seconds_per_call([lambda: launch(tile)])) * 1e6
    except Exception as error:  # a tile too large for the GPU: each compiler pass has its own error
        print(f"  {tuple(tile)}: {type(error).__name__}")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.tune", description=__doc__)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--only", choices=tiles.Tiles._fields, help="one kernel")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    table = tiles.tiles(torch.device("cuda"), dtype)
    for name, launch in launches(dtype).items():
        if options.only in (None, name):
            now = getattr(table, name)
            print(f"{name}: now {tuple(now)}")
            timed = {tile: microseconds(launch, tile) for tile in {now, *candidates(now)}}
            fastest = sorted((time, tile) for tile, time in timed.items() if time is not None)
            for time, tile in fastest[:5]:
                print(f"  {time:9.1f} us  {tuple(tile)}{'  <- now' if tile == now else ''}")
            if timed[now] is not None:
                print(f"  {timed[now]:9.1f} us  now")


if __name__ == "__main__":
    main()
