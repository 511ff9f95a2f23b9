"""``python docs/gallery.py``: draws docs/gallery-*.png with the stand-ins of the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from skimage import data
from zoprune.cli import pictures, standins
from zoprune.cli.options import METHODS
from zoprune.cli.photo import centre

import zoprune_kernels

DOCS = Path(__file__).parent
PATCH = 16  # pixels of the picture
GRID = (standins.GRID, standins.GRID)
FOOTER = (
    "Framed patches stay. A descriptor of the pixels and a projector with random weights stand in "
    "for a model; scores in closed form."
)


def photo(name: str) -> Image.Image:
    return centre(Image.fromarray(getattr(data, name)()), 1, 1)


def kept(projector: standins.StandIn, metric: Any, image: Image.Image, k: int, method: str) -> Any:
    x = standins.describe(image)
    return zoprune_kernels.score_and_select(x, *projector, k, metric=metric, method=method)[0]


def main() -> None:
    projector = standins.random_projector(0, torch.float32)
    metric = zoprune_kernels.fold_metric(projector.w1, projector.w2)

    def panel(title: str, image: Image.Image, k: int, method: str) -> pictures.Panel:
        picks = kept(projector, metric, image, k, method).tolist()
        drawn = pictures.kept_patches(image, picks, GRID, PATCH)
        return pictures.Panel(title, f"{k} of 576 tokens", drawn)

    cup = photo("coffee")
    methods = [panel(method, cup, 64, method) for method in METHODS]
    budgets = [
        panel(f"{name}, by sads", photo(name), k, "sads")
        for k in (16, 64)
        for name in ("astronaut", "chelsea", "rocket")
    ]
    for name, title, subtitle, panels, columns in (
        (
            "methods",
            "One photograph, eight methods, a random stand-in",
            "All have the same scores and keys; they differ in what they call a good choice.",
            methods,
            4,
        ),
        (
            "budgets",
            "16 and 64 tokens, by a random stand-in",
            "What 64 tokens add to 16: the selection for a smaller budget is part of the larger.",
            budgets,
            3,
        ),
    ):
        sheet = pictures.sheet(title, subtitle, panels, FOOTER, columns)
        pictures.with_palette(sheet).save(DOCS / f"gallery-{name}.png", optimize=True)


if __name__ == "__main__":
    main()
