"""A result file's main ratios as one bar chart."""

from __future__ import annotations

from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from ..shapes import LLAVA, LLAVA_NEXT, QWEN, Shape
from ..targets import find


class Line(NamedTuple):
    """A pair of bars, bf16 and fp32: a result row and what it is compared with."""

    label: str
    op: str
    variant: str
    shape: Shape
    against: str


CHART = {
    "Score and select, against the paper's algorithm": [
        Line("LLaVA-1.5, 64 of 576", "score_and_select", "closed form, k = 64", LLAVA, "paper"),
        Line(
            "LLaVA-NeXT, 160 of 2880 *",
            "score_and_select",
            "closed form, k = 160",
            LLAVA_NEXT,
            "paper",
        ),
        Line(
            "Qwen2.5-VL, 128 of 1024 *", "score_and_select", "closed form, k = 128", QWEN, "paper"
        ),
    ],
    "Scores alone, LLaVA-1.5": [
        Line("closed form", "expected_sensitivity", "closed form", LLAVA, "paper"),
        Line("64 directions", "sensitivity", "m = 64, h = 0.01", LLAVA, "paper"),
    ],
    "Selection alone, against the authors' loop": [
        Line("64 of 576", "select", "k = 64", LLAVA, "loop"),
        Line("640 of 2880", "select", "k = 640", LLAVA_NEXT, "loop"),
    ],
}
FOOTNOTE = (
    "* the paper's time measured with a few of its 64 directions and scaled: it is linear in them"
)

# Pixels; drawn at twice the size at which it is meant to be seen
WIDTH, MARGIN, LABELS = 1600, 60, 420
BAR, GAP, HEADING = 30, 22, 62
INK, SOFT, PAPER = "#1f2933", "#7b8794", "#ffffff"
COLOURS = {"bf16": "#2b6cb0", "fp32": "#90cdf4"}


def draw(result: dict[str, Any]) -> Image.Image:
    """Horizontal bars from zero on one linear axis, a pair for each line: bf16 and fp32."""
    about, rows = result["machine"], result["rows"]
    lines = [line for group in CHART.values() for line in group]
    height = 210 + len(CHART) * HEADING + len(lines) * (2 * BAR + GAP) + MARGIN
    image = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(image)
    title, text, small = (ImageFont.load_default(size) for size in (44, 28, 24))
    pen.text((MARGIN, 44), "Times faster than plain PyTorch", INK, title)
    where = (
        f"{about['name']}, {about['threads']} threads, torch {about['torch']}, {about['date'][:10]}"
    )
    pen.text((MARGIN, 106), where, SOFT, small)
    legend(pen, text)

    ratios = {
        (line, dtype): find(rows, line.op, line.variant, line.shape, dtype)["against"][
            line.against
        ]["ratio"]
        for line in lines
        for dtype in COLOURS
    }
    scale = (WIDTH - 2 * MARGIN - LABELS - 100) / max(ratios.values())
    y = 160
    for heading, group in CHART.items():
        pen.text((MARGIN, y + 18), heading, INK, text)
        y += HEADING
        for line in group:
            pen.text((MARGIN, y + BAR), line.label, SOFT, text, anchor="lm")
            for dtype, colour in COLOURS.items():
                ratio = ratios[line, dtype]
                left = MARGIN + LABELS
                right = left + max(2, ratio * scale)
                pen.rectangle((left, y, right, y + BAR - 3), colour)
                pen.text((right + 12, y + BAR / 2 - 1), f"{ratio:.3g}x", INK, small, anchor="lm")
                y += BAR
            y += GAP
    pen.text((MARGIN, y + 8), FOOTNOTE, SOFT, small)
    return image


def legend(pen: ImageDraw.ImageDraw, font: Any) -> None:
    x = WIDTH - MARGIN
    for dtype, colour in reversed(COLOURS.items()):
        x -= int(pen.textlength(dtype, font))
        pen.text((x, 68), dtype, INK, font, anchor="lm")
        pen.rectangle((x - 40, 56, x - 14, 82), colour)
        x -= 76
