"""The charts of the documents, by matplotlib: docs/speed.png and docs/growth.png."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .family.growth import DIM, FEW, LINES, MANY
from .shapes import LLAVA, LLAVA_NEXT, QWEN, Shape
from .targets import find

INK, SOFT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
DTYPES = {"bf16": "#2b6cb0", "fp32": "#90cdf4"}
CURVES = dict(zip(LINES, ("#2b6cb0", "#2f855a", "#b7791f", "#805ad5", "#c53030"), strict=True))
MARKERS = dict(zip(LINES, "os^Dv", strict=True))


class Line(NamedTuple):
    """A pair of bars, bf16 and fp32: a result row and what it is compared with."""

    label: str
    op: str
    variant: str
    shape: Shape
    against: str


PAPER, LOOP = "the paper's algorithm", "the authors' loop"
SPEED = {
    f"Score and select, against {PAPER}": [
        Line("LLaVA-1.5, 64 of 576", "score_and_select", "closed form, k = 64", LLAVA, "paper"),
        Line(
            "LLaVA-NeXT, 160 of 2880",
            "score_and_select",
            "closed form, k = 160",
            LLAVA_NEXT,
            "paper",
        ),
        Line("Qwen2.5-VL, 128 of 1024", "score_and_select", "closed form, k = 128", QWEN, "paper"),
    ],
    "Scores alone, LLaVA-1.5, against the paper's": [
        Line("closed form", "expected_sensitivity", "closed form", LLAVA, "paper"),
        Line("64 directions", "sensitivity", "m = 64, h = 0.01", LLAVA, "paper"),
    ],
    f"Selection alone, against {LOOP}": [
        Line("64 of 576", "select", "k = 64", LLAVA, "loop"),
        Line("128 of each of 5 x 576", "select", "5 crops, k = 128 each", LLAVA_NEXT, "loop"),
        Line("640 of 2880 in one loop", "select", "k = 640", LLAVA_NEXT, "loop"),
    ],
}
FOOTNOTE = "* the paper's time was measured with a few of its 64 directions and scaled"


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure in inches, written without what would change its bytes from run to run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {
        "font.size": 11,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": SOFT,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
    }
    with pyplot.rc_context(style):
        drawn = pyplot.figure(figsize=(width, height))
        yield drawn
        drawn.savefig(path, dpi=160, metadata={"Software": None})
        pyplot.close(drawn)


def speed(result: dict[str, Any], path: Path) -> None:
    """Bars from zero on one linear axis: a line that is not measured says so."""
    rows = result["rows"]
    count = sum(len(lines) for lines in SPEED.values())
    with figure(path, 10, 6.6) as drawn:
        titled(drawn, "Times faster than plain PyTorch", where(result["machine"]))
        axes = drawn.subplots(
            len(SPEED),
            sharex=True,
            gridspec_kw={
                "height_ratios": [len(lines) for lines in SPEED.values()],
                "left": 0.22,
                "right": 0.95,
                "top": 0.83,
                "bottom": 0.13,
                "hspace": 1.9 / count,
            },
        )
        scaled = False
        for plot, (heading, lines) in zip(axes, SPEED.items(), strict=True):
            plot.set_title(heading, loc="left", fontsize=11, color=INK)
            plot.grid(axis="y", visible=False)
            plot.tick_params(axis="y", length=0)
            labels = []
            for y, line in enumerate(lines):
                found = {d: find(rows, line.op, line.variant, line.shape, d) for d in DTYPES}
                few = any(
                    row.get("directions_measured", result["directions"]) < result["directions"]
                    for row in found.values()
                )
                scaled |= few
                labels.append(f"{line.label} *" if few else line.label)
                for offset, (dtype, row) in zip((-0.2, 0.2), found.items(), strict=True):
                    ratio = row.get("against", {}).get(line.against, {}).get("ratio")
                    label = "not measured yet" if ratio is None else f"{ratio:.3g}x"
                    plot.barh(y + offset, ratio or 0, height=0.38, color=DTYPES[dtype])
                    plot.annotate(
                        label,
                        (ratio or 0, y + offset),
                        xytext=(5, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=9,
                        color=INK if ratio else SOFT,
                    )
            plot.set_yticks(range(len(lines)), labels)
            plot.set_ylim(len(lines) - 0.5, -0.5)
            plot.axvline(1, color=SOFT, linewidth=0.8, linestyle=":")
        axes[-1].set_xlim(0, 1.08 * max(plot.dataLim.xmax for plot in axes))
        axes[-1].set_xlabel("times faster (linear; the dotted line is 1x)")
        handles = [axes[0].barh(0, 0, color=colour, label=name) for name, colour in DTYPES.items()]
        drawn.legend(handles=handles, loc="upper right", ncols=2, frameon=False)
        if scaled:
            drawn.text(0.02, 0.015, FOOTNOTE, fontsize=8.5, color=SOFT)


def growth(result: dict[str, Any], path: Path) -> None:
    """Seconds over N, and over k, on logarithmic axes that share their scale of seconds."""
    about = where(result["machine"])
    with figure(path, 10, 5.4) as drawn:
        titled(
            drawn,
            "How time grows with N and k",
            f"{about}; fp32 keys of {DIM:,} dimensions; time of one call, logarithmic axes",
        )
        space = {"left": 0.08, "right": 0.98, "top": 0.76, "bottom": 0.12, "wspace": 0.08}
        over_n, over_k = drawn.subplots(1, 2, sharey=True, gridspec_kw=space)
        for plot, axis, fixed, value in (
            (over_n, "tokens", "k", FEW),
            (over_k, "k", "tokens", MANY),
        ):
            rows = [row for row in result["growth"] if row[fixed] == value]
            for name, colour in CURVES.items():
                points = sorted((row[axis], row["seconds"]) for row in rows if row["line"] == name)
                style = {"color": colour, "marker": MARKERS[name], "markersize": 5}
                plot.plot(*zip(*points, strict=True), label=name, **style)
            plot.set_xscale("log", base=2)
            plot.set_yscale("log")
            ticks = sorted({row[axis] for row in rows})
            plot.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            plot.minorticks_off()
        over_n.yaxis.set_major_formatter(lambda seconds, _: duration(seconds))
        over_n.set_xlabel(f"tokens N, of which {FEW} are picked")
        over_k.set_xlabel(f"picks k, of {MANY:,} tokens")
        handles, labels = over_n.get_legend_handles_labels()
        place = {"loc": "upper left", "bbox_to_anchor": (0.01, 0.88)}
        drawn.legend(handles, labels, ncols=len(labels), frameon=False, **place)


def titled(drawn: Any, title: str, below: str) -> None:
    drawn.text(0.02, 0.94, title, fontsize=17, color=INK)
    drawn.text(0.02, 0.895, below, fontsize=9.5, color=SOFT)


def where(about: dict[str, Any]) -> str:
    threads = f"{about['threads']} threads"
    return f"{about['name']}, {threads}, torch {about['torch']}, {about['date'][:10]}"


def duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1e3:g} ms"
