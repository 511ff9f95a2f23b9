"""Picks by clusters of thread blocks (csrc/cuda/greedy/cluster.cuh), on the CPU, under
AddressSanitizer and UBSan: those of plain greedy, and those in rounds to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.cuda.on_cpu import SHIM_SOURCES, differences, needs_compiler, run, select
from tests.cuda.shim_cases import DTYPES, METHODS, Case
from tests.cuda.test_shim import draw_case, draw_real_case

pytestmark = [
    needs_compiler,
    pytest.mark.proves(*SHIM_SOURCES, "tests/cuda/conftest.py", "tests/cuda/test_shim.py"),
]


def in_clusters(case: Case, each: int = 1) -> Case:
    """So many clusters for each image: the first one picks, all compute the cosines."""
    return replace(case, clusters=each * (len(case.sizes) or len(case.scores)))


def test_random_cases(executable):
    rng = np.random.default_rng(0)
    drawn = [draw_case(rng, METHODS) for _ in range(130)]
    cases = [in_clusters(case, 1 + number % 16 // 15) for number, case in enumerate(drawn)]
    found = differences(cases, select(executable, cases))
    assert not found, f"{len(found)} of {len(cases)} differ, the first: {found[0]}"


def test_several_blocks_of_columns(executable):
    """Pairs of tokens in different blocks are multiplied once; the most tokens; split products."""
    rng = np.random.default_rng(1)
    shapes = [(192, 5, 192, "sads"), (193, 8, 40, "maxmin"), (385, 3, 385, "mmr")]
    shapes += [(640, 2, 60, "sads"), (200, 600, 20, "maxmin"), (31, 1100, 31, "sads")]
    cases = []
    for tokens, dim, keep, method in shapes:
        scores = rng.random((1, tokens), np.float32)
        keys = rng.integers(-2, 3, (1, tokens, dim)).astype(np.float32)
        cases.append(in_clusters(Case(scores, keys, keep, method=method), 1 + (dim == 600)))
    found = differences(cases, select(executable, cases))
    assert not found, found[0]


OPTIONS = [
    {"max_similarity": 0.7},
    {"method": "topk", "max_similarity": 0.5, "sort": True},
    {"method": "mmr", "picks_per_step": 7, "num_seed": 3},
    {"method": "maxmin", "first": "isolated"},
    {"first": "isolated", "picks_per_step": 3, "max_similarity": 0.9},
]


@pytest.mark.parametrize("key_dtype", DTYPES)
def test_the_same_bits_as_in_rounds(executable, key_dtype):
    """Dot products that round, norms beyond single precision, each option."""
    rng = np.random.default_rng(2)
    cases = []
    for number in range(16):
        scale = 1 if key_dtype == "float16" else (1, 1, 1e-30, 1e30)[number % 4]
        case = draw_real_case(rng, key_dtype, scale)
        cases.append(replace(case, **(OPTIONS[number % 8] if number % 8 < len(OPTIONS) else {})))
    keys = rng.standard_normal((1, 300, 600)).astype(np.float16).astype(np.float32)
    keys = (keys.view(np.uint32) & 0xFFFFE000).view(np.float32)  # of any of the types
    scores = rng.random((1, 300), np.float32)
    for array in (scores, keys):  # equal tokens: the lower index decides
        array[:, 150:] = array[:, :150]
    cases.append(Case(scores, keys, keep=200, key_dtype=key_dtype))
    rounds = select(executable, cases)
    clusters = select(executable, [in_clusters(case) for case in cases])
    for case, want, got in zip(cases, rounds, clusters, strict=True):
        assert np.array_equal(got, want), case


def test_any_number_of_clusters_gives_the_same_bits(executable):
    rng = np.random.default_rng(3)
    images = [draw_real_case(rng, "bfloat16") for _ in range(3)]
    dim = min(image.keys.shape[-1] for image in images)
    for image in images:
        image.keys, image.method = np.ascontiguousarray(image.keys[..., :dim]), "sads"
    alone = select(executable, images)
    sizes = [image.scores.size for image in images]
    packed = Case(
        np.concatenate([image.scores[0] for image in images]),
        np.concatenate([image.keys[0] for image in images]),
        key_dtype="bfloat16",
        sizes=sizes,
        keeps=[image.keep for image in images],
    )
    for each in (1, 2):
        (together,) = select(executable, [in_clusters(packed, each)])
        parts = np.split(together, np.cumsum(packed.keeps)[:-1])
        for start, want, got in zip(np.cumsum([0, *sizes[:-1]]), alone, parts, strict=True):
            assert np.array_equal(want + start, got)


@pytest.mark.parametrize("sizes", [[10, -5], [3, 100], [-1, 20], [10, -9, 11]])
def test_wrong_offsets_stay_in_bounds(executable, sizes):
    rng = np.random.default_rng(4)
    scores, keys = rng.random(12, np.float32), rng.random((12, 8), np.float32)
    keeps = [6, 0, 6] if len(sizes) == 3 else [4, 2]
    case = in_clusters(Case(scores, keys, sizes=sizes, keeps=keeps))
    assert run(executable, [case]).returncode == 0


@pytest.mark.parametrize(("memory", "tokens"), [("workspace", 192), ("shared", 640)])
def test_the_sanitizer_sees_missing_memory(executable, memory, tokens):
    rng = np.random.default_rng(5)
    scores, keys = rng.random((1, tokens), np.float32), rng.random((1, tokens, 4), np.float32)
    case = in_clusters(Case(scores, keys, keep=2))
    assert run(executable, [case]).returncode == 0
    finished = run(executable, [case], memory)
    assert finished.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in finished.stderr


def test_where_clusters_are_expected_to_be_quicker(executable):
    wanted = {  # images, tokens, keep: thread blocks of a cluster
        (1, 576, 64): 8,
        (1, 289, 32): 8,
        (1, 288, 64): 1,  # one or two rounds
        (1, 576, 31): 1,  # few picks
        (1, 640, 640): 8,
        (1, 641, 64): 1,  # their cosines do not fit
        (2, 576, 96): 8,
        (2, 576, 95): 1,
        (8, 576, 128): 8,
        (9, 576, 128): 1,  # many images
    }
    cases = [
        Case(np.zeros((images, tokens), np.float32), np.ones((images, tokens, 1), np.float32), keep)
        for images, tokens, keep in wanted
    ]
    for case in cases:
        case.clusters, case.always_clusters = 16, False
    assert run(executable, cases, "plan").stdout.split() == [str(n) for n in wanted.values()]
    without = [replace(cases[0], clusters=0), replace(cases[0], shared_kib=163)]
    without.append(replace(cases[0], keys=None, method="topk"))
    assert run(executable, without, "plan").stdout.split() == ["1"] * 3
