"""The demo: stand-ins, the comparison, pictures, progress. The command: tests/test_cli.py."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from zoprune.cli import comparison, options, photo, pictures, standins
from zoprune.cli.progress import Progress

import zoprune_kernels
from zoprune_kernels import reference


@pytest.fixture(scope="module")
def coffee():
    return photo.load_photo(None)


@pytest.fixture(scope="module")
def tokens(coffee):
    return standins.describe(coffee)


# -- stand-ins ------------------------------------------------------------------------------------


def test_descriptor_is_deterministic_and_scaled(coffee, tokens):
    assert tokens.shape == (576, 1024) and tokens.dtype == torch.float32
    assert torch.equal(tokens, standins.describe(coffee))
    assert tokens.square().mean() == pytest.approx(1, rel=1e-5)


def test_descriptor_knows_no_position():
    """A pattern that repeats every patch gives each patch the same descriptor, edges apart."""
    tile = np.random.default_rng(0).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    x = standins.describe(Image.fromarray(np.tile(tile, (24, 24, 1)))).reshape(24, 24, -1)
    inner = x[4:20, 4:20]  # 112-pixel windows reach 49 pixels beyond a patch
    assert (inner - inner[0, 0]).abs().max() < 1e-4


def test_dct_is_orthonormal():
    dct, _ = standins._dct()
    torch.testing.assert_close(dct @ dct.T, torch.eye(14), atol=1e-6, rtol=0)


def test_uniform_photo_makes_finite_equal_tokens():
    x = standins.describe(Image.new("RGB", (50, 50), "teal"))
    assert x.isfinite().all() and (x - x[0]).abs().max() < 1e-3


def test_projector_is_seeded():
    first, second, other = (
        standins.random_projector(seed, torch.float32, 32, 16) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.w1, other.w1)
    assert [tuple(w.shape) for w in first] == [(32, 1024), (32,), (16, 32), (16,)]


# -- comparison -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", options.METHODS)
def test_paper_literal_is_the_reference(tokens, method):
    projector = standins.random_projector(0, torch.float32, hidden=64, output=48)
    directions = zoprune_kernels.directions(5, 1024, seed=3)
    choice = {"method": method, "seed": 3}
    exact = standins.StandIn(*(weight.double() for weight in projector))
    x, u = tokens.double(), directions.double()
    seen = []
    kept, scores = comparison.paper_literal(x, exact, u, 17, progress=seen.append, **choice)
    truth = reference.paper_sensitivity(x, *exact[:3], u)
    torch.testing.assert_close(scores, truth.float(), rtol=1e-6, atol=0)
    assert seen == [1, 2, 3, 4, 5]
    ours, _ = zoprune_kernels.score_and_select(
        tokens, *projector, 17, directions=directions, **choice
    )
    assert torch.equal(kept, ours)


def test_spearman():
    scores = torch.tensor([0.1, 0.5, 0.2, 0.9])
    assert comparison.spearman(scores, scores.exp()) == pytest.approx(1)
    assert comparison.spearman(scores, -scores) == pytest.approx(-1)
    # ties share their mean rank: ranks 1.5 1.5 3 against 1 2 3
    tied = comparison.spearman(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert tied == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(comparison.spearman(scores, torch.ones(4)))


# -- pictures -------------------------------------------------------------------------------------


def cells(image, grid, patch):
    """uint8 [rows, columns, patch, patch, 3]."""
    pixels = np.asarray(image).reshape(grid[0], patch, grid[1], patch, 3)
    return pixels.swapaxes(1, 2).astype(int)


def test_kept_patches_keep_their_colors_and_dropped_ones_lose_them():
    red = Image.new("RGB", (30, 20), (200, 0, 0))
    parts = cells(pictures.kept_patches(red, [0, 4], (2, 3), 10), (2, 3), 10)
    inside = parts[:, :, 1:-1, 1:-1]  # a frame of one pixel
    spread = inside.max(axis=4) - inside.min(axis=4)
    in_color = (spread > 100).all(axis=(2, 3))
    assert in_color.tolist() == [[True, False, False], [False, True, False]]
    assert (spread.max(axis=(2, 3))[~in_color] < 10).all()


@pytest.mark.parametrize("patch", [3, 10, 25, 64])
@pytest.mark.parametrize("color", ["white", "black", "#fbfaf7"])
def test_kept_patches_are_framed_whatever_their_color(patch, color):
    photo = Image.new("RGB", (30, 20), color)
    kept, both = [1, 5], [5]
    parts = cells(pictures.kept_patches(photo, kept, (2, 3), patch, marked=both), (2, 3), patch)
    border = np.stack([parts[:, :, 0], parts[:, :, -1], parts[:, :, :, 0], parts[:, :, :, -1]])
    dark = (border.sum(axis=4) < 360).all(axis=(0, 3)).reshape(-1)
    assert dark.nonzero()[0].tolist() == kept
    blue = (border[..., 2] > border[..., 0] + 100).all(axis=(0, 3)).reshape(-1)
    assert blue.nonzero()[0].tolist() == both


def test_nothing_is_framed_where_nothing_was_dropped():
    photo = Image.new("RGB", (30, 20), "white")
    assert np.asarray(pictures.kept_patches(photo, range(6), (2, 3), 10)).min() == 255


def test_a_long_title_and_text_stay_on_the_sheet():
    panel = pictures.Panel("All", "1 s", Image.new("RGB", (200, 100)), text="word " * 40)
    short = pictures.Panel("All", "1 s", Image.new("RGB", (200, 100)))
    sheets = [pictures.sheet("word " * 30, "", [p], "", 1) for p in (panel, short)]
    assert sheets[0].height > sheets[1].height + 400
    for sheet in sheets:
        margin = np.asarray(sheet)[:, -40:]
        assert (margin == margin[0, 0]).all()


def test_colormap_is_perceptually_uniform():
    """Lightness L* rises by nearly equal steps over the whole map."""
    color = pytest.importorskip("skimage.color")
    lightness = color.rgb2lab(pictures.colormap(np.linspace(0, 1, 41))[None] / 255)[0, :, 0]
    steps = np.diff(lightness)
    assert (steps > 0).all() and steps.max() < 2.5 * steps.mean()


def test_equal_scores_make_a_map():
    image = pictures.sensitivity_map(Image.new("RGB", (9, 9)), [1.0] * 9, (3, 3), 4)
    assert image.size == (12, 12)


# -- progress -------------------------------------------------------------------------------------


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def test_progress_is_one_line_on_a_terminal_and_few_lines_elsewhere():
    for terminal, lines in ((True, 1), (False, 4)):
        stream = Stream(terminal)
        step = Progress("slow step", 64, stream)
        for done in range(1, 65):
            step(done)
        step.finish("2.0 s")
        written = stream.getvalue()
        assert written.count("\n") == lines
        assert "32/64, about 0 s left" in written
        assert written.endswith("2.0 s\n")
        assert ("\r" in written) == terminal
