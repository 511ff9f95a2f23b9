"""The small model's pictures: photographs with digits, shapes and words on them."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("transformers")

from benchmarks.accuracy import compose, names, scenes
from tests.accuracy.layouts import drawn


def test_splits_share_no_sample_and_no_photograph():
    for name in names.DIGITS:
        rows = [compose.handwriting(split)[name].flatten(1) for split in compose.SPLITS]
        seen = [{row.numpy().tobytes() for row in part} for part in rows]
        assert not seen[0] & seen[2] and not seen[1] & seen[2] and not seen[0] & seen[1]
    photographs = [n for split in compose.SPLITS for n in compose.PHOTOGRAPHS[split]]
    assert len(photographs) == len(set(photographs))


def pasted(layout, b):
    """Picture b of a layout, object by object, on its canvas."""
    atlas = compose.atlas(layout.split)
    tiles = atlas.cover.view(-1, names.TILE, names.TILE, 2)
    wide = names.SIDE + 2 * names.TILE
    picture = torch.zeros(3, wide, wide, dtype=torch.float64)
    side = slice(names.TILE, names.TILE + names.SIDE)
    picture[:, side, side] = compose.canvases(layout)[b].double()
    for k in range(layout.name.shape[1]):
        if layout.name[b, k] < 0:
            continue
        x, y = (layout.box[b, k, :2] - names.MARGIN + names.TILE).tolist()
        x0, y0, x1, y1 = (layout.region[b, k] + names.TILE).tolist()
        mask, shadow = (tiles[layout.tile[b, k]].double() / 255).unbind(-1)
        tone = torch.tensor(list(names.COLOURS.values()))[layout.colour[b, k]]
        tone = tone.double() * layout.tone[b, k]
        inside = torch.zeros(wide, wide, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        box = (slice(y, y + names.TILE), slice(x, x + names.TILE))
        for channel in range(3):
            under = picture[channel][box]
            made = under + shadow * (compose.DARK - under)
            made = made + mask * (tone[channel] - made)
            picture[channel][box] = made.where(inside[box], under)
    return picture[:, side, side].clamp(0, 255)


@pytest.mark.parametrize("kind", ["draw", "crowd"])
def test_pictures_are_their_objects_pasted_one_by_one(kind):
    make = scenes.draw if kind == "draw" else scenes.crowd
    layout = make(torch.Generator().manual_seed(3), "dev", 2)
    pixels = compose.render(layout)
    for b in range(2):
        assert layout.there[b].any()
        assert (pixels[b].double() - pasted(layout, b)).abs().max() < 0.51 + 1e-3


def test_canvases_are_crops_of_photographs():
    """Against Pillow's own crop and scaling; colours are off by what antialiasing changes."""
    layout = drawn(5, 6)
    photos, frames = compose.photographs("dev")
    for b, found in enumerate(compose.canvases(layout)):
        top, width, height = frames[layout.photo[b]].tolist()
        photo = photos[0, :, top : top + height, :width].permute(1, 2, 0).byte().numpy()
        x, y, share = layout.crop[b].tolist()
        side = share * min(width, height)
        x, y = x * (width - side), y * (height - side)
        crop = Image.fromarray(photo).resize(
            (names.SIDE, names.SIDE), Image.Resampling.BILINEAR, (x, y, x + side, y + side)
        )
        want = torch.from_numpy(np.array(crop)).permute(2, 0, 1).float()
        want = want.flip(2) if layout.mirrored[b] else want
        contrast, brightness = layout.light[b]
        assert (found - (want * contrast + brightness)).abs().mean() < 4


def test_a_layout_is_its_seed_and_its_objects_do_not_touch():
    one, two = drawn(7, 64), drawn(7, 64)
    assert all(torch.equal(getattr(one, n), getattr(two, n)) for n in ("name", "box", "tile"))
    found = scenes.objects(one)
    assert {len(objects) for objects in found} == {1, 2, 3, 4, 5, 6}
    for objects in found:
        assert len({o.name for o in objects}) == len({o.colour for o in objects}) == len(objects)
        for i, o in enumerate(objects):
            assert min(o.box) >= names.MARGIN and max(o.box) <= names.SIDE - names.MARGIN
            for x0, y0, x1, y1 in (other.box for other in objects[:i]):
                assert x0 >= o.box[2] or x1 <= o.box[0] or y0 >= o.box[3] or y1 <= o.box[1]


def test_objects_lie_anywhere_and_sizes_differ_unless_held_to_the_grid():
    box = drawn(1, 256).box[drawn(1, 256).there]
    assert len(box[:, 0].remainder(names.PATCH).unique()) == names.PATCH
    height = box[:, 3] - box[:, 1]
    assert height.min() < 12 and height.max() == 36
    layout = drawn(1, 64, loose=0.0)
    digits = layout.box[layout.there & (layout.name < 10)]
    assert (digits.remainder(names.PATCH) == 0).all()
    crowd = scenes.crowd(torch.Generator().manual_seed(0), "dev", 64)
    assert 20 < crowd.there.sum(1).float().mean() < 35
    kinds = [o.kind for objects in scenes.objects(crowd) for o in objects]
    assert kinds.count("digit") / len(kinds) == pytest.approx(0.4, abs=0.05)
