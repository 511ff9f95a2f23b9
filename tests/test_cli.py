"""The ``zoprune`` command with good and bad input: no traceback, whatever it is given."""

import functools
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import zoprune
from PIL import Image
from zoprune.cli import main, options, photo, standins

import zoprune_kernels
from zoprune_kernels.methods import METHODS

FAST = ("--directions", "1", "--keep", "9")


def run(*arguments, code="from zoprune.cli import main; raise SystemExit(main())", **options):
    """``zoprune`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, **options
    )


@pytest.fixture(scope="module")
def coffee():
    return photo.load_photo(None)


@pytest.fixture
def small_projector(monkeypatch):
    """Folding the metric of LLaVA's shape takes seconds."""
    small = functools.partial(standins.random_projector, hidden=64, output=48)
    monkeypatch.setattr(standins, "random_projector", small)


# -- version, info, --json ------------------------------------------------------------------------


def test_the_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"zoprune {zoprune_kernels.__version__}\n"
    assert zoprune.__version__ == zoprune_kernels.__version__


def test_info_says_what_would_run(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "\nselect                      cpu     cpu" in printed
    assert "LlavaForConditionalGeneration" in printed


def test_info_as_an_object(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    rows = {(row["operator"], row["device"]): row["backend"] for row in facts["operators"]}
    assert rows["select", "cpu"] == "cpu" and set(facts) >= {"torch", "triton", "transformers"}
    assert "LlavaForConditionalGeneration" in facts["architectures"]


def test_info_without_transformers():
    code = (
        "import sys; sys.modules.update(transformers=None, PIL=None, numpy=None)\n"
        "from zoprune.cli import main\nraise SystemExit(main(['info']))"
    )
    done = run(code=code)
    assert done.returncode == 0, done.stderr
    assert "zoprune.prune takes nothing without transformers" in done.stdout


def test_the_demo_as_an_object(small_projector, coffee, tmp_path, capsys):
    source = tmp_path / "photo.png"
    coffee.crop((0, 0, 300, 200)).save(source)
    out = str(tmp_path / "kept.png")
    arguments = ["--directions", "1", "--keep", "0.01", "--out", out, "--method", "topk"]
    assert main(["demo", str(source), *arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["size"] == [300, 200] and facts["cropped_to"] == [200, 200]
    assert facts["weights"] == "random stand-ins" and facts["keep"] == 6  # 0.01 of 576
    names = [outcome["name"] for outcome in facts["outcomes"]]
    assert names == ["rewritten, m = 1", "closed form"]
    assert all(len(outcome["kept"]) == 6 for outcome in facts["outcomes"])


# -- the demo -------------------------------------------------------------------------------------


def test_writes_a_picture_and_a_table(coffee, tmp_path, capsys):
    out = tmp_path / "kept.png"
    source = tmp_path / "photo.jpg"
    coffee.save(source, quality=95)
    assert main(["demo", str(source), *FAST, "--literal", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 1900 and picture.height > 1500
    printed = capsys.readouterr().out
    assert "9 of 576 visual tokens of photo.jpg" in printed
    assert "No pretrained weights" in printed and "The middle" not in printed
    for method in ("paper-literal", "rewritten, m = 1", "closed form"):
        assert f"\n  {method} " in printed
    rewritten = next(line for line in printed.splitlines() if "rewritten" in line)
    assert "9 of 9" in rewritten and rewritten.endswith("1.0000")


def test_the_slow_form_runs_on_request_only_and_a_crop_is_announced(
    small_projector, coffee, tmp_path, capsys
):
    source = tmp_path / "photo.png"
    coffee.resize((90, 60)).save(source)
    assert main(["demo", str(source), *FAST, "--out", str(tmp_path / "kept.png")]) == 0
    printed = capsys.readouterr().out
    assert "paper-literal" not in printed
    assert "The middle 60 x 60 pixels of the photo's 90 x 60 are used." in printed


def test_every_method_is_offered():
    assert list(METHODS) == list(options.METHODS)


def test_a_budget_is_a_count_or_a_ratio():
    assert options.budget("64", 576) == 64 and isinstance(options.budget("1", 576), int)
    assert options.budget("0.25") == 0.25 and isinstance(options.budget("1.0"), float)
    assert options.budget("1e-2") == 0.01
    for text in ("0", "577", "-3", "0.0", "1.5", "-0.5", "nan", "inf", "many", "", "64,16", "25%"):
        with pytest.raises(options.UsageError, match="--keep: expected a count from 1 to 576 or"):
            options.budget(text, 576)


# -- pictures of every kind -----------------------------------------------------------------------

GREYS = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
COLORS = np.stack([GREYS, GREYS[::-1], GREYS.T], axis=2)


def saved(path, image, **options):
    image.save(path, **options)
    return str(path)


def test_16_bits_keep_their_shades(tmp_path):
    for name in ("grey.png", "grey.tiff"):
        path = saved(tmp_path / name, Image.fromarray(GREYS.astype(np.uint16) * 257))
        assert np.array_equal(np.asarray(photo.open_photo(path)), GREYS[..., None].repeat(3, 2))


def test_transparent_pixels_are_white(tmp_path):
    alpha = np.where(np.arange(8) < 4, 255, 0).astype(np.uint8)[None].repeat(8, 0)
    expected = np.where(alpha[..., None] == 0, 255, COLORS)
    image = Image.fromarray(np.dstack([COLORS, alpha]))
    assert np.array_equal(photo.open_photo(saved(tmp_path / "a.png", image)), expected)
    grey = Image.fromarray(np.dstack([GREYS, alpha]))
    shown = np.asarray(photo.open_photo(saved(tmp_path / "b.png", grey)))
    assert np.array_equal(shown[..., 0], np.where(alpha == 0, 255, GREYS))


def test_palettes_have_their_colors(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 30, 10, 9, 9, 9])
    image.putpixel((0, 0), 2)
    opaque = photo.open_photo(saved(tmp_path / "a.png", image))
    assert opaque.getpixel((3, 3)) == (200, 30, 10) and opaque.getpixel((0, 0)) == (9, 9, 9)
    see_through = photo.open_photo(saved(tmp_path / "b.gif", image, transparency=2))
    assert see_through.getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_and_one_bit(tmp_path):
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = photo.open_photo(saved(tmp_path / "a.jpg", inks, quality=100)).getpixel((4, 4))
    assert red[0] > 240 and max(red[1:]) < 15
    bits = Image.new("1", (8, 8), 1)
    assert photo.open_photo(saved(tmp_path / "b.png", bits)).getpixel((0, 0)) == (255,) * 3


def test_a_camera_s_rotation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    path = saved(tmp_path / "a.jpg", Image.fromarray(COLORS[:, :4]), exif=exif, quality=100)
    assert photo.open_photo(path).size == (8, 4)


def broken(folder):
    """Files that are no pictures, or only the beginning of one."""
    text = folder / "notes.png"
    text.write_text("not an image")
    whole = folder / "whole.png"
    Image.effect_noise((64, 64), 99).save(whole)
    half = folder / "half.png"
    half.write_bytes(whole.read_bytes()[:2000])
    garbled = folder / "garbled.png"
    garbled.write_bytes(whole.read_bytes()[:60] + bytes(range(200)))
    empty = folder / "empty.jpg"
    empty.touch()
    deep = saved(folder / "deep.tiff", Image.fromarray(np.eye(4, dtype=np.float32)))
    large = saved(folder / "large.tiff", Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)))
    return [str(path) for path in (text, half, garbled, empty, deep, large)]


def test_what_is_no_picture_is_refused(tmp_path, capsys):
    for path in broken(tmp_path):
        assert main(["demo", path]) == 2, path
        error = capsys.readouterr().err
        assert error.startswith(f"zoprune demo: error: photo: '{path}' is not a readable"), error
        assert error.count("\n") == 1


# -- bad input ------------------------------------------------------------------------------------


def bad_input(tmp_path):
    keep = "--keep: expected a count from 1 to 576 or a ratio in (0, 1] such as 0.25, got"
    return {
        "missing file": (["nowhere.jpg"], "photo: expected an image file, got 'nowhere.jpg'"),
        "folder": ([str(tmp_path)], "which is not a file"),
        "keep 0": (["--keep", "0"], f"{keep} '0'"),
        "keep 577": (["--keep", "577"], f"{keep} '577'"),
        "two budgets": (
            ["x.jpg", "--keep", "64,16"],
            "--keep: expected one budget without --model",
        ),
        "per": (["--per", "crop"], "--per: expected it with --model"),
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


def test_one_message_names_all_missing_packages_and_help_needs_none():
    code = (
        "import sys\n"
        "names = 'PIL skimage numpy transformers safetensors torch'\n"
        "sys.modules.update(dict.fromkeys(names.split()))\n"
        "from zoprune.cli import main\n"
        "assert main(['demo']) == main(['demo', '--model', '.']) == 2\n"
        "sys.argv[0] = 'zoprune'; main(['demo', '--help'])"
    )
    done = run(code=code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "zoprune demo: error: the demo needs numpy, pillow, torch, transformers and safetensors: "
        "pip install numpy pillow torch transformers safetensors (zoprune_kernels[demo])",
        "zoprune demo: error: --model needs numpy, pillow, transformers and safetensors: pip "
        "install numpy pillow transformers safetensors (zoprune_kernels[demo,hf])",
    ]
    assert "No pretrained weights are involved" in done.stdout


def test_a_package_that_cannot_be_imported_says_why(tmp_path):
    (tmp_path / "skimage.py").write_text("raise ImportError('built for another numpy')")
    done = run("demo", "--seed", "1", env={**os.environ, "PYTHONPATH": path(tmp_path)})
    assert done.returncode == 2
    assert "cannot be imported: skimage (built for another numpy)" in done.stderr


def path(first):
    return os.pathsep.join([str(first), *filter(None, sys.path)])


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
def test_a_closed_pipe_is_no_error():
    command = shlex.join([sys.executable, "-m", "zoprune", "info"])
    environment = {**os.environ, "PYTHONPATH": path("")}
    script = f"set -o pipefail; ({command}; echo $? >&2) | head -n 0"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert done.stderr == "141\n", done.stderr
