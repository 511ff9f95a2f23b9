"""CONTRIBUTING's walk, "Adding a selection method", walked: a toy method in a copy of the package.

``apart`` picks the best scores that are at least ``gap`` tokens from one another. It has all that a
method may have: an operator with a packed twin, an option, a tensor of its own. It runs as the
reference, under Triton, which scores and leaves the picks to the operator, on the CPU
(``test_walk_native.py``) and by CUDA's threads (``test_walk_cuda.py``).
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.source_tree import ROOT, needs_sources

pytestmark = needs_sources

NEW = {
    "zoprune_kernels/reference/select_apart.py": '''
"""Picks at a distance."""

from __future__ import annotations

import torch
from torch import Tensor

from ..methods import ApartOptions
from .greedy import BLOCKED, FREE, PICKED, candidate_classes, first_best, selection
from .normalise import finite_scores


@selection
def select_apart(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    bonus: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    **options: int,
) -> Tensor:
    gap = ApartOptions(**options).gap
    score = finite_scores(scores if bonus is None else scores + bonus)
    classes = candidate_classes(scores, must_keep, valid)
    index = torch.arange(len(scores), device=scores.device)
    picks = torch.empty(k, dtype=torch.int64, device=scores.device)
    for step in range(k):
        picks[step] = pick = first_best(classes, score)
        classes = classes.index_fill(0, pick, PICKED)
        near = (index - pick).abs() < gap
        classes = classes.masked_fill(near & (classes == FREE), BLOCKED)
    return picks
''',
    "zoprune_kernels/operators/select_apart.py": '''
"""Picks at a distance: select_apart and select_apart_varlen."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ..methods import ApartOptions
from ._register import operator, varlen


def _checks(call: Call) -> Output:
    each = call.check.scores(call.scores, packed=call.packed)
    each.masks(call.must_keep, call.valid)
    ApartOptions.of(call.arguments).check(call.check.fail)
    return call.kept(call.scores, "scores")


@operator(_checks, values=Call.check_mask_values, hand_over=True)
def select_apart(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    bonus: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    gap: int = ApartOptions.gap,
    sort: bool = True,
) -> Tensor:
    """Pick the best scores that are at least ``gap`` tokens from one another.

    Returns:
        int64 indices [..., k].
    """
    masks = (must_keep, valid)
    return reference.select_apart(scores, keys, k, bonus, *masks, gap=gap, sort=sort)


select_apart_varlen = varlen(select_apart, "Returns: int64 indices [total_keep].")
''',
}
# (file, the line after which the new ones stand, these)
ENTRIES = [
    (
        "zoprune_kernels/methods.py",
        r"# -- methods -+\n",
        """

@dataclass(frozen=True)
class ApartOptions(Options):
    gap: int = _count(2, 1)
""",
    ),
    (
        "zoprune_kernels/methods.py",
        r'    "coverage": Method\(.*\n',
        '    "apart": Method("select_apart", ApartOptions, ("bonus",), compares=False),\n',
    ),
    (
        "zoprune_kernels/reference/__init__.py",
        r"from .select import .*\n",
        "from .select_apart import select_apart as select_apart\n",
    ),
    (
        "zoprune_kernels/operators/__init__.py",
        r"from .select import .*\n",
        "from .select_apart import select_apart, select_apart_varlen\n",
    ),
    (
        "zoprune_kernels/operators/score_and_select.py",
        r"    weights: Tensor \| None = None,\n",
        "    bonus: Tensor | None = None,\n",
    ),
    (
        "zoprune_kernels/operators/score_and_select.py",
        r"    threshold: float = SuppressOptions.threshold,\n",
        "    gap: int = ApartOptions.gap,\n",
    ),
    (
        "zoprune_kernels/operators/score_and_select.py",
        r"from \.\.methods import ",
        "ApartOptions, ",
    ),
]
# Of two images, with equal scores; for both native halves.
DRAW = """
def draw(tokens, picks):
    n, k, gap = (int(torch.randint(1, high, ())) for high in (tokens, picks, 9))
    k = min(k, n)
    scores = torch.randint(-4, 5, (2, n)).float()
    scores[torch.rand(2, n) < 0.1] = float("nan")
    valid = torch.rand(2, n) < 0.8
    valid[:, :k] = True
    kept = valid & (torch.rand(2, n) < 0.05) & (torch.arange(n) < k)
    return (scores, None, k, torch.rand(2, n), kept, valid), gap
"""
CHECK = """
import torch, zoprune_kernels
from torch.library import opcheck

ops = torch.ops.zoprune
torch.manual_seed(0)
scores = torch.rand(2, 30)
scores[0, 4] = 2

def plain(scores, k, gap):
    left, picks = scores.clone(), []
    for _ in range(k):
        picks.append(int(left.argmax()))
        left[max(0, picks[-1] - gap + 1) : picks[-1] + gap] = -1
    return torch.tensor(picks)

want = torch.stack([plain(row, 5, 3) for row in scores])
assert torch.equal(zoprune_kernels.select_apart(scores, None, 5, gap=3, sort=False), want)
cu_tokens, cu_keep = torch.tensor([[0, 30, 60], [0, 5, 10]], dtype=torch.int32)
packing = (cu_tokens, cu_keep, 10)
flat = zoprune_kernels.select_apart_varlen(scores.flatten(), None, *packing, gap=3, sort=False)
assert torch.equal(flat.view(2, 5), want + torch.tensor([[0], [30]]))
opcheck(ops.select_apart.default, (scores, None, 5), {"gap": 3})
opcheck(ops.select_apart_varlen.default, (scores.flatten(), None, *packing))
assert "_reference_select_apart(" in str(ops._reference_select_apart.default._schema)

def refused(text, f, *arguments, **options):
    try:
        f(*arguments, **options)
    except RuntimeError as error:
        assert text in str(error), error
    else:
        raise AssertionError(text)

refused("select_apart: gap: expected an integer >= 1", ops.select_apart, scores, None, 5, gap=0)
wrong = (scores[0], None, cu_tokens, cu_keep, 99)
refused("select_apart_varlen: total_keep: expected 1 <=", ops.select_apart_varlen, *wrong)
torch.func.grad(lambda s: s[0, ops.select_apart(s, None, 5)[0]].sum())(scores)

x, w1, w2 = torch.randn(2, 30, 32), torch.randn(64, 32) / 6, torch.randn(48, 64) / 8
metric = ops.fold_metric(w1, w2)
bonus = torch.rand(2, 30)
given = {"metric": metric, "method": "apart", "gap": 3, "sort": False}
"""
PRUNE = """
tokens, indices, got = project(x, w1, None, w2, None, 5, bonus=bonus, **given)
assert torch.equal(indices, ops.select_apart(got, None, 5, bonus, gap=3, sort=False))
assert tokens.shape == (2, 5, 48)
alone = torch.stack([plain(row, 5, 3) for row in got + bonus])
assert torch.equal(indices, alone)
layers = (x.flatten(0, 1), w1, None, w2, None)
packed, _ = score_varlen(*layers, *packing, bonus=bonus.flatten(), **given)
assert torch.equal(packed.view(2, 5), indices + torch.tensor([[0], [30]]))
for options, text in (
    ({"method": "sads", "bonus": bonus}, "bonus: expected None with method 'sads'"),
    ({"method": "apart", "centre": True}, "centre: expected False with method 'apart'"),
    ({"method": "best"}, "coverage, apart, got 'best'"),
):
    refused(text, project, x, w1, None, w2, None, 5, **options)
from zoprune.selection import Rule
Rule("apart", options={"gap": 4})
"""
REFERENCE = """
project, score_varlen = ops.project_and_select, ops.score_and_select_varlen
"""
TRITON = """
from zoprune_kernels.triton import launch, register, tiles
tile = launch.Tile(128, 64, 32, warps=4, stages=1, tma=True)
tiles.tiles = lambda device, dtype: tiles.Tiles(*[tile] * len(tiles.Tiles._fields))
project, score_varlen = map(register.kernel, ("project_and_select", "score_and_select_varlen"))
"""


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A copy of the package after the walk."""
    copy = tmp_path_factory.mktemp("walk")
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "zoprune_kernels", copy / "zoprune_kernels", ignore=ignored)
    for path, text in NEW.items():
        (copy / path).write_text(text.lstrip())
    for path, place, lines in ENTRIES:
        source = (copy / path).read_text()
        found = re.findall(place, source)
        assert len(found) == 1, (path, place)
        (copy / path).write_text(source.replace(found[0], found[0] + lines))
    return copy


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_method_added_by_the_walk_runs(walked, backend):
    environment = os.environ | {"PYTHONPATH": f"{walked}{os.pathsep}{ROOT / 'python'}"}
    environment |= {"ZOPRUNE_BACKEND": "reference"}
    if backend == "triton":
        triton = pytest.importorskip("triton")
        if triton.__version__.startswith("3.6"):
            pytest.skip("Triton 3.6's interpreter does not work with NumPy 2.4")
        environment["TRITON_INTERPRET"] = "1"
    code = CHECK + {"reference": REFERENCE, "triton": TRITON}[backend] + PRUNE
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=walked, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_contributing_names_these_files():
    """The walk in CONTRIBUTING and the one above touch the same Python files."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split("## Adding a selection method")[1].split("\n## ")[0]
    named = set(re.findall(r"`(zoprune_kernels/[\w/<>]+\.py)`", section))
    touched = {path.replace("apart", "<name>") for path in (*NEW, *(entry[0] for entry in ENTRIES))}
    assert named == touched
