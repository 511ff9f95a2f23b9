"""csrc/cuda's selections on the CPU, under ThreadSanitizer: no two threads are in a race.

What one thread writes and another reads or writes must be ordered by a barrier, or by a count
that releases, whatever the order was in which the threads ran (tests/cuda/shim/memory_order.h).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cuda.on_cpu import SHIM_SOURCES, build, differences, needs_compiler, select
from tests.cuda.shim_cases import RULES, Case

pytestmark = [needs_compiler, pytest.mark.proves(*SHIM_SOURCES)]


@pytest.fixture(scope="session")
def executable(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("cuda_races"), "-fsanitize=thread")


def draw_case(method: str, tokens: int = 130, dim: int = 8, images: int = 1, **options) -> Case:
    """Integer keys, and more picks than one round makes."""
    rng = np.random.default_rng(0)
    shape = (images, tokens)
    keys = rng.integers(-2, 3, (*shape, dim)).astype(np.float32) if dim else None
    positions = rng.integers(0, 12, (*shape, 2)).astype(np.float32) if method in RULES else None
    options = {"keep": tokens // 3, "multiprocessors": 3, "sort": True} | options
    return Case(rng.random(shape, np.float32), keys, positions=positions, method=method, **options)


def packed_case(method: str) -> Case:
    case = draw_case(method, tokens=150, sort=False)
    case.scores, case.keys = case.scores[0], case.keys[0]
    case.sizes, case.keeps = [70, 0, 80], [20, 0, 30]
    return case


def test_no_race(executable):
    must_keep = np.arange(130)[None] % 40 == 3
    cases = [
        draw_case("sads", must_keep=must_keep),
        draw_case("maxmin", images=2, multiprocessors=4, key_dtype="float16"),
        draw_case("maxmin", tokens=200, keep=20, first="isolated"),
        draw_case("mmr", picks_per_step=5, num_seed=3, max_similarity=0.5),
        draw_case("sads", tokens=24, centre=True, key_dtype="bfloat16"),
        draw_case("topk", tokens=600, dim=0, keep=300),
        draw_case("soft"),
        draw_case("exponential", tokens=300, dim=0, keep=40),
        draw_case("dpp"),
        draw_case("dpp", tokens=100, dim=600, keep=20, multiprocessors=4),
        draw_case("coverage", keep=4, must_keep=must_keep, weights=np.ones((1, 130), np.float32)),
        draw_case("coverage", tokens=200, keep=3, stored_cosines=0),
        draw_case("coverage", tokens=60, dim=260, keep=3, stored_cosines=0),
        packed_case("sads"),
        # One thread block for all images, and two for three of them.
        draw_case("maxmin", keep=8, images=2, first="isolated", multiprocessors=1),
        replace(packed_case("sads"), sort=True, multiprocessors=2),
        packed_case("dpp"),
        replace(packed_case("coverage"), keeps=[3, 0, 3], stored_cosines=5000, multiprocessors=2),
    ]
    found = differences(cases, select(executable, cases))
    assert not found, found[0]
