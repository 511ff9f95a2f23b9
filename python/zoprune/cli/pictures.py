"""Pictures of pruned images, drawn with Pillow: kept patches, sensitivity maps, sheets of panels.

A grid is (rows, columns) of patches. Patches of a picture are squares of whole pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Grid = tuple[int, int]

PAPER, INK, MUTED, ACCENT, WRONG = "#fbfaf7", "#1c1b19", "#75716a", "#1668dc", "#c3272b"
# viridis at 0, 0.1, ... 1: perceptually uniform, and readable without color vision.
_VIRIDIS = "440154 482576 414487 35608d 2a788e 21908c 22a884 43bf71 7ad151 bbdf27 fde725".split()
_MARGIN, _GUTTER = 90, 45  # pixels


@dataclass
class Bar:
    """One bar of a chart: its value, written large as ``figure``, and a remark beside that."""

    name: str
    value: float
    figure: str
    note: str


@dataclass
class Reply:
    """A question with its answer; a wrong one is shown in red, with the right one behind it."""

    question: str
    answer: str
    right: str | None = None  # None: not known


@dataclass
class Panel:
    """One picture of a sheet; above it a title, a line of text and, to their right, a legend.

    Below it ``text``, in lines.
    """

    title: str
    caption: str
    image: Image.Image
    legend: Image.Image | None = None
    text: str = ""


def kept_patches(
    photo: Image.Image,
    kept: Sequence[int],
    grid: Grid,
    patch: int,
    marked: Sequence[int] = (),
) -> Image.Image:
    """The photo with the dropped patches faded to grey and the kept ones framed.

    White patches of a photo would not show without a frame; ``marked`` ones get a thicker one in
    another color. kept and marked hold row-major patch indices; the result has grid x ``patch``
    pixels. Nothing is framed where nothing was dropped.
    """
    mask = np.zeros(grid, dtype=bool)
    mask.flat[list(kept)] = True
    image = _fit(photo, grid, patch)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    faded = np.array(_rgb(PAPER)) - (255 - grey) * 0.22
    pixels = np.where(_enlarge(mask, patch)[..., None], np.asarray(image), faded)
    result = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(result)
    thin = 0 if mask.all() else min(max(patch // 16, 1), 3)
    for indices, color, width in ((kept, INK, thin), (marked, ACCENT, thin + 2)):
        for index in indices if thin else ():
            row, column = divmod(index, grid[1])
            left, top = column * patch, row * patch
            draw.rectangle((left, top, left + patch - 1, top + patch - 1), None, color, width)
    return result


def sensitivity_map(
    photo: Image.Image, scores: Sequence[float], grid: Grid, patch: int
) -> Image.Image:
    """The scores, lowest dark blue and highest yellow, over the photo's light and shade.

    scores [rows * columns] in row-major order; the result has grid x ``patch`` pixels.
    """
    values = np.asarray(scores, dtype=np.float64).reshape(grid)
    span = values.max() - values.min()
    colors = colormap((values - values.min()) / (span if span > 0 else 1))
    grey = np.asarray(_fit(photo, grid, patch).convert("L"), dtype=np.float32)[..., None] / 255
    pixels = _enlarge(colors, patch) * (0.55 + 0.45 * grey)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def colormap(values: np.ndarray) -> np.ndarray:
    """viridis: values in [0, 1], any shape [...] -> float64 colors [..., 3] in [0, 255]."""
    anchors = np.array([_rgb(color) for color in _VIRIDIS], dtype=np.float64)
    stops = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(values, stops, channel) for channel in anchors.T], axis=-1)


def color_bar(width: int) -> Image.Image:
    """The color map's legend, from "low" to "high", as high as a panel's caption."""
    font, height, top = _font(26), 32, 5
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), "low", MUTED, font)
    draw.text((width, 0), "high", MUTED, font, anchor="ra")
    start, end = round(font.getlength("low")) + 12, width - round(font.getlength("high")) - 12
    bar = colormap(np.linspace(0, 1, end - start))[None].repeat(height - 2 * top, axis=0)
    image.paste(Image.fromarray(bar.astype(np.uint8)), (start, top))
    return image


def bar_chart(bars: Sequence[Bar], side: int) -> Image.Image:
    """Horizontal bars on one linear scale from 0, the first one grey, in a square."""
    image = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(image)
    largest = max(bar.value for bar in bars)
    for i, bar in enumerate(bars):
        top = i * side // len(bars)
        length = max(round(side * bar.value / largest), 3)
        draw.text((0, top), bar.name, INK, _font(28))
        draw.rectangle((0, top + 44, length - 1, top + 83), fill=ACCENT if i else MUTED)
        draw.text((-2, top + 94), bar.figure, INK, _font(50))
        left = _font(50).getlength(bar.figure) + 18
        draw.text((left, top + 115), bar.note, MUTED, _font(28))
    return image


def answered(image: Image.Image, replies: Sequence[Reply]) -> Image.Image:
    """The picture with questions and answers below it, each pair in one line where it fits."""
    small, large, inner, gap = _font(24), _font(30), image.width, 26
    rows: list[tuple[int, str, str, ImageFont.FreeTypeFont]] = []  # top, text, color, font
    right: list[tuple[int, str, str]] = []  # top, text, color
    top = image.height + gap
    for reply in replies:
        wrong = reply.right is not None and reply.answer != reply.right
        answer = f"{reply.answer} (it is {reply.right})" if wrong else reply.answer
        color = WRONG if wrong else INK
        if small.getlength(reply.question) + gap + large.getlength(answer) <= inner:
            rows.append((top + 6, reply.question, MUTED, small))
            right.append((top, answer, color))
            top += 42
            continue
        for text, shade, font, pitch in (
            (reply.question, MUTED, small, 32),
            (answer, color, large, 40),
        ):
            for line in wrap(text, font, inner):
                rows.append((top, line, shade, font))
                top += pitch
        top += 12
    result = Image.new("RGB", (image.width, top), PAPER)
    result.paste(image, (0, 0))
    draw = ImageDraw.Draw(result)
    for y, text, shade, font in rows:
        draw.text((0, y), text, shade, font)
    for y, text, shade in right:
        draw.text((inner, y), text, shade, large, anchor="ra")
    return result


def sheet(
    title: str, subtitle: str, panels: Sequence[Panel], footer: str, columns: int
) -> Image.Image:
    """Panels of one width, ``columns`` to a row, under a title and above a footer."""
    panel_width = panels[0].image.width
    panel_height = max(panel.image.height for panel in panels)
    width = 2 * _MARGIN + columns * panel_width + (columns - 1) * _GUTTER
    small, large, inner = _font(24), _font(34), width - 2 * _MARGIN
    lines, introduction = wrap(footer, small, inner), wrap(subtitle, large, inner)
    heading = _fitting(title, inner)
    titles = wrap(title, heading, inner)
    texts = [wrap(panel.text, large, panel_width) if panel.text else [] for panel in panels]
    label, line_height = 100, 36  # above each panel, of the footer
    top = _MARGIN + (len(titles) - 1) * 50
    head = 150 + 50 * len(introduction)
    pitch = label + panel_height + 46 * max(map(len, texts)) + _GUTTER
    foot_top = top + head + -(-len(panels) // columns) * pitch + 10
    image = Image.new("RGB", (width, foot_top + line_height * len(lines) + _MARGIN - 10), PAPER)
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(titles):
        draw.text((_MARGIN - 4, _MARGIN - 20 + 50 * i), line, INK, heading)
    for i, line in enumerate(introduction):
        draw.text((_MARGIN, top + 90 + 50 * i), line, MUTED, large)
    for i, panel in enumerate(panels):
        left = _MARGIN + i % columns * (panel_width + _GUTTER)
        above = top + head + i // columns * pitch
        draw.text((left, above), panel.title, INK, _font(36))
        draw.text((left, above + 48), panel.caption, MUTED, _font(26))
        image.paste(panel.image, (left, above + label))
        if panel.legend is not None:
            right = left + panel_width - panel.legend.width
            image.paste(panel.legend, (right, above + 48))
        for row, line in enumerate(texts[i]):
            draw.text((left, above + label + panel_height + 10 + 46 * row), line, INK, large)
    for i, line in enumerate(lines):
        draw.text((_MARGIN, foot_top + line_height * i), line, MUTED, small)
    return image


def draw_lines(image: Image.Image, places: Sequence[int], horizontal: bool) -> None:
    """Thin lines across the picture, at these pixels from the top, or from the left."""
    draw = ImageDraw.Draw(image)
    for place in places:
        ends = (0, place, image.width, place) if horizontal else (place, 0, place, image.height)
        draw.line(ends, fill=ACCENT, width=2)


def montage(panels: Sequence[Panel], columns: int) -> Image.Image:
    """Panels of any size, ``columns`` to a row, title and caption above each."""
    label, gap = 34, 24
    width = max(panel.image.width for panel in panels) + gap
    height = max(panel.image.height for panel in panels) + gap + label
    rows = -(-len(panels) // columns)
    image = Image.new("RGB", (columns * width + gap, rows * height + gap), PAPER)
    draw = ImageDraw.Draw(image)
    for i, panel in enumerate(panels):
        left, top = gap + i % columns * width, gap + i // columns * height
        draw.text((left, top), panel.title, INK, _font(20))
        after = left + _font(20).getlength(panel.title) + 12
        draw.text((after, top), panel.caption, MUTED, _font(20))
        image.paste(panel.image, (left, top + label))
    return image


def with_palette(image: Image.Image) -> Image.Image:
    """The picture in 256 colors of its own: a third of the bytes in a PNG file."""
    sample = image.resize((image.width // 3, image.height // 3), Image.Resampling.NEAREST)
    palette = sample.quantize(256, kmeans=1)  # k-means over all pixels would take 20 s
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of words that are at most ``width`` pixels long."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fit(photo: Image.Image, grid: Grid, patch: int) -> Image.Image:
    size = (grid[1] * patch, grid[0] * patch)
    return photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _enlarge(values: np.ndarray, patch: int) -> np.ndarray:
    return values.repeat(patch, axis=0).repeat(patch, axis=1)


def _fitting(title: str, width: int) -> ImageFont.FreeTypeFont:
    """A title's font, smaller where it would be too wide; a very long one gets several lines."""
    size = 80
    while size > 40 and _font(size).getlength(title) > width:
        size -= 4
    return _font(size)


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.lstrip("#"))
    return red, green, blue


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
