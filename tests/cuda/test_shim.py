"""csrc/cuda's selections on the CPU, under AddressSanitizer and UBSan, against plain greedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cuda.on_cpu import SHIM_SOURCES, build, differences, needs_compiler, run, select
from tests.cuda.shim_cases import DTYPES, METHODS, RULES, Case, counted, weights

pytestmark = [needs_compiler, pytest.mark.proves(*SHIM_SOURCES)]


@pytest.fixture(scope="session")
def executable(tmp_path_factory) -> Path:
    checks = "-fsanitize=address,undefined -fno-sanitize-recover=all"
    checks += " -fno-sanitize=null,object-size"  # what AddressSanitizer sees anyway
    return build(tmp_path_factory.mktemp("cuda_shim"), checks)


# -- random cases ----------------------------------------------------------------------------------


def draw_case(rng: np.random.Generator, methods: tuple[str, ...]) -> Case:
    """Small integers as keys, scores with many ties, and every option."""
    packed = rng.random() < 0.3
    sizes = [int(n) for n in rng.integers(0, 90, rng.integers(1, 5))] if packed else []
    if packed and not sum(sizes):
        sizes[0] = 5
    images, tokens = int(rng.integers(1, 3)), int(rng.choice([1, 2, 17, 33, 63, 64, 65, 130]))
    lead = (sum(sizes),) if packed else (images, tokens)
    keeps = [int(rng.integers(0, n + 1)) for n in sizes]
    if packed and not sum(keeps):
        keeps[int(np.argmax(sizes))] = 1
    dim = int(rng.choice([1, 3, 7, 8, 16, 33, 64, 72]))
    workers = int(rng.choice([1, 1, 2, 4]))
    if rng.random() < 0.01:  # several thread blocks share the dot products
        dim, workers = int(rng.choice([600, 1056])), 6
    scores = rng.integers(-4, 5, lead).astype(np.float32)
    if rng.random() < 0.6:
        scores = rng.standard_normal(lead).astype(np.float16).astype(np.float32)
        scores = (scores.view(np.uint32) & 0xFFFF0000).view(np.float32)
    if rng.random() < 0.2:
        scores[rng.random(lead) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
    keys = rng.integers(-3, 4, (*lead, dim)).astype(np.float32)
    if rng.random() < 0.2:
        keys[rng.random(lead) < 0.3] = 0
    case = Case(
        scores,
        keys,
        keep=int(rng.integers(1, min(tokens, 40) + 1)),
        must_keep=rng.random(lead) < 0.1 if rng.random() < 0.3 else None,
        valid=rng.random(lead) < 0.8 if rng.random() < 0.3 else None,
        method=str(rng.choice(methods)),
        max_similarity=float(rng.choice([1.0, 1.0, 0.5, 0.1, 0.0])),
        tradeoff=float(rng.choice([0.0, 0.3, 0.5, 1.0])),
        sort=bool(rng.random() < 0.5),
        score_dtype=str(rng.choice(DTYPES)),
        key_dtype=str(rng.choice(DTYPES)),
        sizes=sizes,
        keeps=keeps,
        multiprocessors=workers,
        shared_kib=int(rng.choice([99, 163, 227])),
    )
    if case.method in RULES:
        draw_suppression(rng, case)
    if case.method == "coverage":
        draw_coverage(rng, case)
    if case.method in METHODS and rng.random() < 0.6:
        draw_options(rng, case)
    return case


def draw_options(rng: np.random.Generator, case: Case) -> None:
    """Options of select; centred keys whose mean is an integer, so that they stay exact."""
    case.first = str(rng.choice(["score", "isolated"]))
    if case.first == "score":
        case.num_seed = int(rng.choice([0, 1, 3, 50]))
    case.picks_per_step = int(rng.choice([1, 2, 5, 64]))
    if case.keys is None or rng.random() < 0.6:
        return
    case.centre = True
    case.keys[rng.random(case.scores.shape) < 0.1, 0] = rng.choice([1, np.inf, np.nan])
    for _, image in case.images():
        used = np.flatnonzero(counted(image))
        for column in image.keys.T if used.size else []:
            column[used[: int(column[used].sum()) % used.size]] -= 1


def draw_suppression(rng: np.random.Generator, case: Case) -> None:
    """Parameters, and places on a small grid."""
    if rng.random() < 0.8:
        axes = int(rng.integers(2, 4))
        case.positions = rng.integers(0, 8, (*case.scores.shape, axes)).astype(np.float32)
        if rng.random() < 0.1:
            case.positions[rng.random(case.scores.shape) < 0.2] = np.nan
        if rng.random() < 0.2:
            case.keys = None
    case.sigma_space = float(rng.choice([0.5, 1.5, 10]))
    case.sigma_similarity = float(rng.choice([0.05, 0.3, 1]))
    case.radius = float(rng.choice([1, 2.5, 5, np.inf]))
    case.strength = float(rng.choice([0, 0.5, 3]))
    case.threshold = float(rng.choice([-1, 0, 0.3, 0.9, 1]))


def draw_coverage(rng: np.random.Generator, case: Case) -> None:
    """Weights, equal keys, and up to how many of an image's cosines are kept. Few picks: each takes
    the shim longer than a round of the others."""
    case.keep = min(case.keep, int(rng.integers(1, 16)))
    case.keeps = [min(keep, int(rng.integers(1, 16))) for keep in case.keeps]
    if rng.random() < 0.6:
        case.weights = rng.random(case.scores.shape).astype(np.float32)
        odd = rng.choice([0, -1, 1e-8, np.nan, np.inf])
        case.weights[rng.random(case.scores.shape) < 0.1] = odd
    if rng.random() < 0.3:
        case.scores = np.where(case.scores < 0, -case.scores, case.scores)
    if rng.random() < 0.2:
        first = case.keys.reshape(-1, case.keys.shape[-1])[0]
        case.keys[rng.random(case.scores.shape) < 0.5] = first
    case.stored_cosines = int(rng.choice([0, 500, 8 << 20]))


@pytest.mark.parametrize(
    ("methods", "count"),
    [(METHODS, 500), (RULES, 350), (("dpp",), 200), (("coverage",), 150)],
    ids=str,
)
def test_random_cases(executable, methods, count):
    rng = np.random.default_rng(0)
    cases = [draw_case(rng, methods) for _ in range(count)]
    found = differences(cases, select(executable, cases))
    assert not found, f"{len(found)} of {len(cases)} differ, the first: {found[0]}"


def test_many_rounds(executable):
    """More tokens than a round's candidates and than shared memory caches; split products."""
    rng = np.random.default_rng(1)
    shapes = [(300, 20, 150, "sads", 1), (270, 8, 269, "maxmin", 5), (8300, 1, 200, "topk", 5)]
    shapes += [(8300, 2, 2, "sads", 5), (100, 1100, 9, "sads", 1), (100, 1100, 9, "sads", 5)]
    shapes += [(300, 20, 120, "soft", 5), (260, 3, 250, "exponential", 1), (250, 2, 249, "hard", 5)]
    shapes += [(192, 5, 192, "sads", 3), (193, 8, 40, "maxmin", 5), (385, 3, 385, "mmr", 5)]
    shapes += [(300, 70, 60, "dpp", 5), (260, 40, 80, "dpp", 1)]
    shapes += [
        (300, 20, 3, "coverage", 5),
        (300, 20, 3, "coverage", 3),
        (60, 260, 3, "coverage", 5),
    ]
    cases = []
    for tokens, dim, keep, method, workers in shapes:
        scores = rng.random((1, tokens), np.float32)
        keys = rng.integers(-2, 3, (1, tokens, dim)).astype(np.float32)
        positions = rng.integers(0, 20, (1, tokens, 2)) if method in RULES else None
        cases.append(
            Case(scores, keys, keep, positions=positions, method=method, multiprocessors=workers)
        )
    cases[-2].stored_cosines = 0
    found = differences(cases, select(executable, cases))
    assert not found, found[0]


def test_a_step_of_all_that_is_left(executable):
    """A round must have all candidates of its first step, or the kernel never ends."""
    rng = np.random.default_rng(7)
    cases = []
    for tokens in (5, 63, 100, 130):
        for method in METHODS:
            scores = rng.standard_normal((1, tokens)).astype(np.float32)
            keys = rng.integers(-3, 4, (1, tokens, 9)).astype(np.float32)
            must_keep = rng.random((1, tokens)) < 0.1 * len(cases) / 20
            cases.append(Case(scores, keys, tokens, must_keep, method=method, picks_per_step=64))
    found = differences(cases, select(executable, cases))
    assert not found, found[0]


# -- keys whose dot products round: how good each pick is, in float64 ------------------------------


def regret(case: Case, picks: np.ndarray) -> float:
    """The most that a pick's gain is below the best gain of its step."""
    keys = case.keys.astype(np.float64)
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    weight = weights(case).astype(np.float64)
    gain, nearest = weight.copy(), np.full(weight.shape, -np.inf)
    worst = 0.0
    for pick in picks:
        worst = max(worst, gain.max() - gain[pick])
        nearest = np.maximum(nearest, unit @ unit[pick])
        gain = weight * (1 - nearest) if case.method == "sads" else 1 - nearest
        nearest[pick] = np.inf
        gain[np.isinf(nearest)] = -np.inf
    return worst


def draw_real_case(rng: np.random.Generator, key_dtype: str, scale: float = 1) -> Case:
    """Keys around a few centres, as image tokens are."""
    tokens, dim = int(rng.integers(2, 160)), int(rng.integers(3, 130))
    centres = rng.standard_normal((8, dim))
    keys = centres[rng.integers(0, 8, tokens)] + 0.5 * rng.standard_normal((tokens, dim))
    keys = (keys * scale).astype(np.float32)
    if key_dtype == "float16":
        keys = keys.astype(np.float16).astype(np.float32)
    if key_dtype == "bfloat16":
        keys = (keys.view(np.uint32) & 0xFFFF0000).view(np.float32)
    scores = rng.random((1, tokens), np.float32)
    method = str(rng.choice(["sads", "maxmin"]))
    keep = int(rng.integers(1, tokens + 1))
    return Case(scores, keys[None], keep, method=method, key_dtype=key_dtype)


@pytest.mark.parametrize("key_dtype", DTYPES)
def test_picks_are_best_in_float64(executable, key_dtype):
    rng = np.random.default_rng(2)
    scales = [1] if key_dtype == "float16" else [1, 1e-30, 1e30]
    cases = [draw_real_case(rng, key_dtype, scale) for scale in scales for _ in range(8)]
    for case, picks in zip(cases, select(executable, cases), strict=True):
        image = case.images()[0][1]
        assert len(set(picks)) == case.keep
        assert regret(image, picks) < 1e-5


@pytest.mark.parametrize("key_dtype", DTYPES)
def test_dpp_spans_the_most_in_float64(executable, key_dtype):
    """Each pick's quality times its distance from the span of those before it is the largest."""
    rng = np.random.default_rng(6)
    cases = [draw_real_case(rng, key_dtype) for _ in range(8)]
    for case in cases:
        case.method, case.keep = "dpp", min(case.keep, case.keys.shape[-1] // 2 + 1)
    for case, picks in zip(cases, select(executable, cases), strict=True):
        left = case.keys[0].astype(np.float64)
        left /= np.linalg.norm(left, axis=1, keepdims=True)
        for pick in picks:
            gain = case.scores[0] * np.linalg.norm(left, axis=1)
            assert gain[pick] > gain.max() - 1e-4
            direction = left[pick] / np.linalg.norm(left[pick])
            left -= np.outer(left @ direction, direction)


@pytest.mark.parametrize("key_dtype", DTYPES)
def test_a_pair_is_equally_far_from_each_other(executable, key_dtype):
    """A cosine is symmetric to the last bit, so that the first of two isolated tokens is picked."""
    rng = np.random.default_rng(8)
    keys = np.zeros((100, 2, 16))
    keys[..., 8:] = rng.standard_normal((100, 2, 8))
    keys[:, 0, 0], keys[:, 1, 0] = 1, 1 - 2e-3 * rng.random(100)  # where floats change their ulp
    scores = rng.random(keys.shape[:2], np.float32)
    pairs = Case(scores, keys.astype(np.float32), keep=1, first="isolated", key_dtype=key_dtype)
    assert not np.any(select(executable, [pairs])[0])


@pytest.mark.parametrize("key_dtype", DTYPES)
def test_of_equal_tokens_the_lower_index_comes_first(executable, key_dtype):
    """Dot products that round, of rows in different tiles; the same bits whole and split."""
    rng = np.random.default_rng(13)
    dim = 300 if key_dtype == "float32" else 600  # of two chunks
    scores, keys = rng.random((1, 130), np.float32), rng.standard_normal((1, 130, dim))
    for array in (scores, keys):
        array[:, 65:] = array[:, :65]
    whole = Case(scores, keys.astype(np.float32), keep=130, key_dtype=key_dtype)
    picks, split = select(executable, [whole, replace(whole, multiprocessors=6)])
    assert np.array_equal(picks, split)
    order = np.argsort(picks)
    assert np.all(order[:65] < order[65:])


@pytest.mark.parametrize("key_dtype", DTYPES)
def test_coverage_adds_the_most_in_float64(executable, key_dtype):
    """And keeping the cosines or computing them anew gives the same bits."""
    rng = np.random.default_rng(9)
    cases = [draw_real_case(rng, key_dtype) for _ in range(4)]
    for case in cases:
        case.method, case.keep = "coverage", min(case.keep, 6)
    anew = [replace(case, stored_cosines=0) for case in cases]
    results = select(executable, cases + anew)
    for case, picks, again in zip(cases, results[:4], results[4:], strict=True):
        assert np.array_equal(picks, again)
        unit = case.keys[0].astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        cosine, covered = unit @ unit.T, np.zeros(len(unit))
        for pick in picks:
            gain = case.scores[0] * np.maximum(cosine - covered, 0).sum(1)
            assert gain[pick] > gain.max() * (1 - 1e-5)
            covered = np.maximum(covered, cosine[pick])


@pytest.mark.parametrize("max_similarity", [1.0, 0.9])  # by gains alone, and with classes
def test_a_candidate_that_falls_to_the_bound_gives_way_to_a_lower_index(executable, max_similarity):
    """Fourteen candidates; after the second pick the last ties with the one token left out."""
    keys = np.zeros((16, 8), np.float32)
    keys[0, :4] = 1  # left out: its cosine to the first pick is 1/2
    keys[1, 0] = 2  # the first pick, by its score
    keys[2:15, 4] = 2  # all alike
    keys[15, 4:] = 1  # its cosine to those is 1/2
    scores = (np.arange(16) == 1).astype(np.float32)
    case = Case(
        scores[None], keys[None], 3, method="maxmin", max_similarity=max_similarity, sort=False
    )
    (picks,) = select(executable, [case])
    assert picks.tolist() == [1, 2, 0]


@pytest.mark.parametrize("method", ["topk", "sads"])
def test_candidates_that_are_blocked_tie_with_tokens_left_out(executable, method):
    """Few directions, equal scores: a candidate that a pick blocks may have the higher index."""
    rng = np.random.default_rng(12)
    cases = []
    for groups in (3, 4, 5, 6) * 4:
        keys = np.eye(groups, dtype=np.float32)[rng.integers(0, groups, (1, 130))]
        scores = np.ones((1, 130), np.float32)
        cases.append(Case(scores, keys, keep=36, method=method, max_similarity=0.5))
    found = differences(cases, select(executable, cases))
    assert not found, found[0]


def test_coverage_ties_where_the_quantum_ends(executable):
    """Orthogonal tokens that add half a quantum more or less than each other."""
    rng = np.random.default_rng(10)
    weights = 2.0**-29 * (1 + rng.integers(0, 16, (1, 64)) * 2.0**-17)
    weights[0, 0] = 1
    scores, keys = np.ones((1, 64), np.float32), np.eye(64, dtype=np.float32)[None]
    case = Case(scores, keys, keep=24, weights=weights.astype(np.float32), method="coverage")
    found = differences([case], select(executable, [case]))
    assert not found, found[0]


def test_coverage_picks_those_that_add_nothing_by_score(executable):
    """After those that add something; a score of zero adds nothing, too."""
    rng = np.random.default_rng(11)
    scores = rng.choice([-1, 0, 1, 2, np.nan], (8, 9), p=[0.1, 0.3, 0.3, 0.2, 0.1])
    keys = np.eye(4)[rng.integers(0, 4, (8, 9))].astype(np.float32)
    cases = [
        Case(scores.astype(np.float32), keys, keep=9, method="coverage", stored_cosines=most)
        for most in (0, 81)
    ]
    found = differences(cases, select(executable, cases))
    assert not found, found[0]


@pytest.mark.parametrize("method", ["sads", "coverage"])
def test_any_batch_and_grid_gives_the_same_bits(executable, method):
    rng = np.random.default_rng(3)
    for key_dtype in DTYPES:
        images = [draw_real_case(rng, key_dtype) for _ in range(4)]
        dim = min(image.keys.shape[-1] for image in images)
        for image in images:
            image.keys, image.method = np.ascontiguousarray(image.keys[..., :dim]), method
            if method == "coverage":  # of two of the images the cosines are kept
                image.keep, image.stored_cosines = min(image.keep, 4), 6000
        alone = select(executable, images)
        sizes = [image.scores.size for image in images]
        starts = np.cumsum([0, *sizes])
        for workers in (1, 3, 8):
            packed = Case(
                np.concatenate([image.scores[0] for image in images]),
                np.concatenate([image.keys[0] for image in images]),
                method=method,
                key_dtype=key_dtype,
                stored_cosines=images[0].stored_cosines,
                sizes=sizes,
                keeps=[image.keep for image in images],
                multiprocessors=workers,
            )
            together = np.split(select(executable, [packed])[0], np.cumsum(packed.keeps)[:-1])
            for image, start, got in zip(alone, starts, together, strict=False):
                assert np.array_equal(image + start, got)


@pytest.mark.parametrize("sizes", [[10, -5], [3, 100], [-1, 20], [10, -9, 11]])
def test_wrong_offsets_stay_in_bounds(executable, sizes):
    """On a GPU nothing can check what offsets hold; the sanitizer sees that they do no harm."""
    rng = np.random.default_rng(4)
    scores, keys = rng.random(12, np.float32), rng.random((12, 8), np.float32)
    keeps = [6, 0, 6] if len(sizes) == 3 else [4, 2]
    case = Case(scores, keys, sizes=sizes, keeps=keeps, multiprocessors=3)
    coverage = [replace(case, method="coverage", stored_cosines=most) for most in (0, 10000)]
    assert run(executable, [case, *coverage]).returncode == 0


@pytest.mark.parametrize("memory", ["workspace", "shared", "keys", "indices", "cosines"])
def test_the_sanitizer_sees_missing_memory(executable, memory):
    rng = np.random.default_rng(5)
    scores, keys = rng.random((1, 64), np.float32), rng.random((1, 64, 16), np.float32)
    case = Case(scores, keys, keep=64, shared_kib=99)  # where shared memory is used to its end
    if memory == "cosines":  # the end of coverage's workspace
        case, memory = replace(case, method="coverage", keep=2), "workspace"
    assert run(executable, [case]).returncode == 0
    finished = run(executable, [case], memory)
    assert finished.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in finished.stderr
