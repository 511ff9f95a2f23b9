"""How the family's times grow with N and k, measured and as a picture."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import zoprune_kernels as zk

from ..shapes import patches

Row = dict[str, Any]
DIM = 1024
TOKENS, FEW = (512, 1024, 2048, 4096, 8192, 16384), 64  # N, at this k
KEEP, MANY = (16, 32, 64, 128, 256, 512, 1024), 4096  # k, at this N
SHORTEST_SAMPLE = 0.2  # seconds
LINES: dict[str, tuple[str, Callable[[Tensor, Tensor, int], Any]]] = {
    "select, sads": ("#2b6cb0", lambda s, keys, k: zk.select(s, keys, k)),
    "select_suppress": (
        "#2f855a",
        lambda s, keys, k: zk.select_suppress(
            s, keys, k, rule="exponential", sigma_similarity=0.05
        ),
    ),
    "select_dpp": ("#b7791f", lambda s, keys, k: zk.select_dpp(s, keys, k)),
    "merge": (
        "#805ad5",
        lambda s, keys, k: torch.ops.zoprune.merge(keys, keys, torch.arange(k)),
    ),
    "select_coverage": ("#c53030", lambda s, keys, k: zk.select_coverage(s, keys, k)),
}


def measure(progress: Callable[[str], None]) -> list[Row]:
    """Seconds of every line's operator at each N and k, fp32 keys of ``DIM`` dimensions."""
    places = [(tokens, FEW) for tokens in TOKENS] + [(MANY, k) for k in KEEP if k != FEW]
    rows = []
    for tokens, k in places:
        keys = patches(tokens, DIM, torch.Generator().manual_seed(0))
        scores = keys[:, 0] - keys[:, 0].min() + 1e-6
        for name, (_, run) in LINES.items():
            progress(f"growth: {name}, {tokens} to {k}")
            rows.append(
                {"line": name, "tokens": tokens, "k": k, "seconds": shortest(run, scores, keys, k)}
            )
    return rows


def shortest(run: Callable[[Tensor, Tensor, int], Any], *arguments: Any) -> float:
    """The shortest of the calls that fit the time of a sample, a slow one being called once."""
    times: list[float] = []
    while sum(times) < SHORTEST_SAMPLE:
        start = time.perf_counter()
        run(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


# Pixels; drawn at twice the size of the file, which is twice the size at which it is to be seen
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 3200, 1720, 220, 100, 480, 220, 240
DOT, LINE = 13, 7
INK, SOFT, GRID, PAPER = "#1f2933", "#7b8794", "#e4e7eb", "#ffffff"


class Axis(NamedTuple):
    """A logarithmic axis: values and the pixels of its ends."""

    low: float
    high: float
    start: int
    end: int

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def draw(result: Row) -> Image.Image:
    """Seconds over N, and over k, on logarithmic axes that share their scale of seconds."""
    about, rows = result["machine"], result["growth"]
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((LEFT - 100, 70), "How time grows with N and k", INK, font(84))
    where = (
        f"{about['name']}, {about['threads']} threads, torch {about['torch']}, "
        f"{about['date'][:10]}; fp32 keys of {DIM:,} dimensions; logarithmic axes"
    )
    pen.text((LEFT - 100, 196), where, SOFT, font(46))
    legend(pen)
    seconds = [row["seconds"] for row in rows]
    ends = 10 ** math.floor(math.log10(min(seconds))), 10 ** math.ceil(math.log10(max(seconds)))
    up = Axis(*ends, HEIGHT - BOTTOM, TOP)
    middle = (LEFT + WIDTH - RIGHT) // 2
    left = Axis(TOKENS[0], TOKENS[-1], LEFT, middle - BETWEEN // 2)
    right = Axis(KEEP[0], KEEP[-1], middle + BETWEEN // 2, WIDTH - RIGHT)
    panel(pen, left, up, TOKENS, f"tokens N, of which {FEW} are picked")
    panel(pen, right, up, KEEP, f"picks k, of {MANY:,} tokens")
    for name, (colour, _) in LINES.items():
        mine = [row for row in rows if row["line"] == name]
        curve(pen, colour, left, up, [(r["tokens"], r["seconds"]) for r in mine if r["k"] == FEW])
        among = sorted((r["k"], r["seconds"]) for r in mine if r["tokens"] == MANY)
        curve(pen, colour, right, up, among)
    return image.resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.LANCZOS)


def panel(
    pen: ImageDraw.ImageDraw, across: Axis, up: Axis, ticks: tuple[int, ...], name: str
) -> None:
    """Grid and ticks of one diagram."""
    for power in range(round(math.log10(up.low)), round(math.log10(up.high)) + 1):
        y = up.at(10.0**power)
        pen.line((across.start, y, across.end, y), GRID, 4)
        pen.text((across.start - 30, y), duration(power), SOFT, font(44), anchor="rm")
    for tick in ticks:
        x = across.at(tick)
        pen.line((x, up.start, x, up.start + 16), SOFT, 4)
        pen.text((x, up.start + 30), f"{tick:,}", SOFT, font(44), anchor="ma")
    centre = (across.start + across.end) / 2
    pen.text((centre, up.start + 110), name, INK, font(50), anchor="ma")


def curve(
    pen: ImageDraw.ImageDraw, colour: str, across: Axis, up: Axis, points: list[tuple[int, float]]
) -> None:
    pixels = [(across.at(x), up.at(y)) for x, y in points]
    pen.line(pixels, colour, LINE, joint="curve")
    for x, y in pixels:
        pen.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), colour)


def legend(pen: ImageDraw.ImageDraw) -> None:
    x = LEFT - 100.0
    for name, (colour, _) in LINES.items():
        pen.line((x, 340, x + 80, 340), colour, LINE)
        pen.ellipse((x + 40 - DOT, 340 - DOT, x + 40 + DOT, 340 + DOT), colour)
        pen.text((x + 104, 340), name, INK, font(50), anchor="lm")
        x += 104 + pen.textlength(name, font(50)) + 90


def duration(power: int) -> str:
    """10^power seconds in words."""
    value, unit = (10**power, "s") if power >= 0 else (10 ** (power + 3), "ms")
    return f"{value:g} {unit}"


def font(size: int) -> Any:
    return ImageFont.load_default(size)
