"""The demo: stand-ins, the comparison, pictures, and the command with good and bad input."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from zoprune.cli import comparison, main, photo, pictures, standins
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


@pytest.mark.parametrize("method", ["sads", "maxmin", "topk", "random"])
def test_paper_literal_is_the_reference(tokens, method):
    projector = standins.random_projector(0, torch.float32, hidden=64, output=48)
    directions = zoprune_kernels.directions(5, 1024, seed=3)
    options = {"method": method, "seed": 3}
    exact = standins.StandIn(*(weight.double() for weight in projector))
    x, u = tokens.double(), directions.double()
    seen = []
    kept, scores = comparison.paper_literal(x, exact, u, 17, progress=seen.append, **options)
    truth = reference.paper_sensitivity(x, *exact[:3], u)
    torch.testing.assert_close(scores, truth.float(), rtol=1e-6, atol=0)
    assert seen == [1, 2, 3, 4, 5]
    ours, _ = zoprune_kernels.score_and_select(
        tokens, *projector, 17, directions=directions, **options
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


def test_kept_patches_keep_their_colors_and_dropped_ones_lose_them():
    red = Image.new("RGB", (30, 20), (200, 0, 0))
    image = np.asarray(pictures.kept_patches(red, [0, 4], (2, 3), 10)).astype(int)
    assert image.shape == (20, 30, 3)
    spread = image.max(axis=2) - image.min(axis=2)
    in_color = (spread > 100).reshape(2, 10, 3, 10).all(axis=(1, 3))
    assert in_color.tolist() == [[True, False, False], [False, True, False]]
    assert (spread.reshape(2, 10, 3, 10).max(axis=(1, 3))[~in_color] < 10).all()


def test_colormap_is_perceptually_uniform():
    """Lightness L* rises by nearly equal steps over the whole map."""
    color = pytest.importorskip("skimage.color")
    lightness = color.rgb2lab(pictures.colormap(np.linspace(0, 1, 41))[None] / 255)[0, :, 0]
    steps = np.diff(lightness)
    assert (steps > 0).all() and steps.max() < 2.5 * steps.mean()


def test_equal_scores_make_a_map():
    image = pictures.sensitivity_map(Image.new("RGB", (9, 9)), [1.0] * 9, (3, 3), 4)
    assert image.size == (12, 12)


# -- the command ----------------------------------------------------------------------------------


def test_writes_a_picture_and_a_table(coffee, tmp_path, capsys):
    out = tmp_path / "kept.png"
    source = tmp_path / "photo.jpg"
    coffee.save(source, quality=95)
    assert main(["demo", str(source), "--directions", "1", "--keep", "9", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 1900 and picture.height > 1500
    printed = capsys.readouterr().out
    assert "9 of 576 visual tokens of photo.jpg" in printed
    assert "No pretrained weights" in printed
    for method in ("paper-literal", "rewritten, m = 1", "closed form"):
        assert f"\n  {method} " in printed
    rewritten = next(line for line in printed.splitlines() if "rewritten" in line)
    assert "9 of 9" in rewritten and rewritten.endswith("1.0000")


def bad_input(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    return {
        "missing file": (["nowhere.jpg"], "photo: expected an image file, got 'nowhere.jpg'"),
        "folder": ([str(tmp_path)], "which is not a file"),
        "not an image": ([str(text)], "is not a readable image"),
        "keep 0": (["--keep", "0"], "--keep: expected a number from 1 to 576, got 0"),
        "keep 577": (["--keep", "577"], "--keep: expected a number from 1 to 576, got 577"),
        "directions": (["--directions", "0"], "--directions: expected a number from 1"),
        "seed": (["--seed", "-1"], "--seed: expected a number from 0"),
        "not a png": (["--out", "kept.jpg"], "--out: expected a file name ending in .png"),
        "no folder": (["--out", "no/where.png"], "--out: expected an existing folder, got 'no'"),
        "out is a folder": (["--out", str(tmp_path / "dir.png")], "a file that can be written"),
    }


def test_bad_input_exits_with_2_and_says_why(tmp_path, capsys):
    (tmp_path / "dir.png").mkdir()
    for case, (arguments, message) in bad_input(tmp_path).items():
        assert main(["demo", *arguments]) == 2, case
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("zoprune demo: error: "), case
        assert message in captured.err, case


@pytest.mark.parametrize("arguments", [[], ["nosuch"], ["demo", "--method", "best"]])
def test_bad_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: zoprune" in capsys.readouterr().err


def test_import_and_help_need_no_optional_package():
    code = (
        "import sys; sys.modules.update(PIL=None, skimage=None, transformers=None, torch=None)\n"
        "from zoprune.cli import main\n"
        "assert main(['demo']) == 2\n"
        "sys.argv[0] = 'zoprune'; main(['demo', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the demo needs PIL.Image: pip install pillow" in done.stderr
    assert "No pretrained weights are involved" in done.stdout


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
