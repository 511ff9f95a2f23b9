"""Calls of the CUDA selections for tests/cuda/test_shim.py, and their plain greedy in NumPy.

Dot products of small integers are exact, and everything else follows the kernels' arithmetic, so
the picks must be the same to the last tie.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, field, replace

import numpy as np

DTYPES = ("float32", "float16", "bfloat16")
METHODS = ("sads", "maxmin", "topk", "random", "mmr")  # of select
RULES = ("soft", "exponential", "hard")  # of select_suppress
MUST_KEEP, FREE, BLOCKED, NAN, INVALID = 5, 4, 3, 2, 1
FLT_MAX = np.finfo(np.float32).max


@dataclass
class Case:
    """One call: of select or, by its method, of another selection; with ``sizes`` and ``keeps`` of
    packed images."""

    scores: np.ndarray  # [B, N] or [T], float32 values that its dtype can hold
    keys: np.ndarray | None  # [.., dim]
    keep: int = 0
    must_keep: np.ndarray | None = None
    valid: np.ndarray | None = None
    positions: np.ndarray | None = None  # [.., axes] float32
    weights: np.ndarray | None = None  # of coverage, float32
    method: str = "sads"  # one of METHODS, one of RULES, "dpp" or "coverage"
    max_similarity: float = 1.0
    tradeoff: float = 0.5
    first: str = "score"
    num_seed: int = 0
    centre: bool = False
    picks_per_step: int = 1
    sigma_space: float = 1.5
    sigma_similarity: float = 0.05
    radius: float = 5.0
    strength: float = 1.0
    threshold: float = 0.9
    sort: bool = False
    score_dtype: str = "float32"
    key_dtype: str = "float32"
    sizes: list[int] = field(default_factory=list)
    keeps: list[int] = field(default_factory=list)
    multiprocessors: int = 1
    shared_kib: int = 227  # 99 on the smallest chips
    stored_cosines: int = 8 << 20  # of an image, by coverage

    @property
    def compares(self) -> bool:
        always = self.method not in ("topk", "random") or self.first == "isolated"
        return (always or self.max_similarity < 1) and self.keys is not None

    @property
    def total_keep(self) -> int:
        return sum(self.keeps) if self.sizes else self.scores.shape[0] * self.keep

    def scales(self) -> tuple[float, float]:
        """What squared distances and dissimilarities are multiplied by in the exponent."""
        similarity = (
            2 * self.sigma_similarity**2 if self.method == "soft" else self.sigma_similarity
        )
        return -1 / (2 * self.sigma_space**2), -1 / similarity

    def encode(self) -> bytes:
        packed = bool(self.sizes)
        images = len(self.sizes) if packed else self.scores.shape[0]
        in_select, in_suppress = self.method in METHODS, self.method in RULES
        header = [self.multiprocessors, self.shared_kib * 1024, self.stored_cosines]
        header += [images, self.scores.shape[-1], self.keep, self.scores.size, self.total_keep]
        header += [1 if self.keys is None else self.keys.shape[-1]]
        header += [DTYPES.index(self.score_dtype), DTYPES.index(self.key_dtype), self.sort]
        header += [self.compares, self.must_keep is not None, self.valid is not None, packed]
        header += [self.weights is not None]
        header += [0 if in_select else 1 if in_suppress else 2 + (self.method == "coverage")]
        header += [METHODS.index(self.method) if in_select else 0]
        header += [self.first == "isolated", self.num_seed, self.picks_per_step, self.centre]
        header += [RULES.index(self.method) if in_suppress else 0]
        header += [0 if self.positions is None else self.positions.shape[-1]]
        reals = [self.max_similarity, self.tradeoff, *self.scales()]
        reals += [self.strength, self.radius**2, self.threshold]
        parts = [struct.pack("25q7d", *map(int, header), *reals)]
        parts.append(encode(self.scores, self.score_dtype))
        if self.compares:
            parts.append(encode(self.keys, self.key_dtype))
        parts += [mask.tobytes() for mask in (self.must_keep, self.valid) if mask is not None]
        if packed:
            for sizes in (self.sizes, self.keeps):
                parts.append(np.cumsum([0, *sizes], dtype=np.int32).tobytes())
        if self.positions is not None:
            parts.append(self.positions.astype(np.float32).tobytes())
        if self.weights is not None:
            parts.append(self.weights.astype(np.float32).tobytes())
        return b"".join(parts)

    def images(self) -> list[tuple[int, Case]]:
        """Each image alone with its first token's position."""
        if self.sizes:
            starts = np.cumsum([0, *self.sizes])[:-1]
            parts = [
                (start, slice(start, start + n), k)
                for start, n, k in zip(starts, self.sizes, self.keeps, strict=True)
            ]
        else:
            parts = [(0, image, self.keep) for image in range(len(self.scores))]
        names = ("scores", "keys", "must_keep", "valid", "positions", "weights")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return [
            (
                int(start),
                replace(
                    self, keep=keep, sizes=[], keeps=[], **{n: a[part] for n, a in given.items()}
                ),
            )
            for start, part, keep in parts
            if keep
        ]


def encode(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "bfloat16":
        return (
            (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
        )
    return array.astype(dtype).tobytes()


# -- plain greedy ----------------------------------------------------------------------------------


def weights(case: Case) -> np.ndarray:
    scores = np.clip(case.scores, -FLT_MAX, FLT_MAX)
    if case.method == "topk":
        return scores
    if case.method == "random":
        return random_weights(scores.size)
    usable = ~np.isnan(scores) if case.valid is None else ~np.isnan(scores) & case.valid
    if not usable.any() or scores[usable].min() == scores[usable].max():
        return np.ones_like(scores)
    low, high = (float(f(scores[usable])) for f in (np.min, np.max))
    return ((scores.astype(np.float64) - low) / (high - low + 1e-8)).astype(np.float32)


def random_weights(count: int) -> np.ndarray:
    import torch

    from zoprune_kernels import philox

    return philox.uniform(count, 0, torch.device("cpu")).numpy()


def counted(case: Case) -> np.ndarray:
    """The tokens [N] of an image whose keys enter the mean."""
    finite = np.isfinite(case.keys).all(-1)
    return finite if case.valid is None else finite & case.valid


def centred(case: Case) -> np.ndarray:
    mean = case.keys[counted(case)].sum(0, dtype=np.float64) / max(counted(case).sum(), 1)
    return case.keys - mean


class Cosines:
    """Of all tokens with one of them, in the kernels' rounding."""

    def __init__(self, keys: np.ndarray) -> None:
        usable = np.isfinite(keys).all(1, keepdims=True)
        self.exact = np.where(usable, keys, 0).astype(np.float64)
        norm = np.sqrt((self.exact * self.exact).sum(1))
        with np.errstate(divide="ignore"):
            self.inverse = np.where(norm > 0, 1 / norm, 0).astype(np.float32)

    def to(self, token: int | slice) -> np.ndarray:
        dot = (self.exact @ self.exact[token].T).astype(np.float32)
        own = self.inverse if isinstance(token, int) else self.inverse[:, None]
        return np.clip(dot * (own * self.inverse[token]), np.float32(-1), np.float32(1))


def plain_greedy(case: Case) -> np.ndarray:
    """Picks [keep] of one image: the best remaining token, ``keep`` times."""
    rules = {"dpp": Volume, "coverage": Coverage} | dict.fromkeys(RULES, Suppression)
    objective = rules.get(case.method, Redundancy)(case)
    kind = np.where(np.isnan(case.scores), NAN, FREE)
    if case.must_keep is not None:
        kind[case.must_keep] = MUST_KEEP
    if case.valid is not None:
        kind[~case.valid] = INVALID
    picks: list[int] = []
    for step in range(case.keep):
        objective.begin(step, kind)
        kind[(kind == FREE) & objective.blocked()] = BLOCKED
        best = kind.max()
        order = objective.gain() if best in (FREE, BLOCKED) else np.zeros_like(case.scores)
        pick = int(np.where(kind == best, order, -np.inf).argmax())
        picks.append(pick)
        kind[pick] = 0
        objective.pick(pick)
    return np.array(picks)


class Redundancy:
    """select: a gain of the weight and of the largest cosine to the picked."""

    def __init__(self, case: Case) -> None:
        self.case, self.weight = case, weights(case)
        keys = centred(case) if case.centre and case.compares else case.keys
        self.cosines = Cosines(keys) if case.compares else None
        self.nearest = np.full(self.weight.shape, -np.inf, np.float32)
        self.shown = self.nearest  # what gains know of it
        self.seeds = 0  # until here by weight

    def begin(self, step: int, kind: np.ndarray) -> None:
        self.step, self.candidates = step, kind == FREE
        if step == 0:
            kept, seeds = int((kind == MUST_KEEP).sum()), min(self.case.num_seed, self.case.keep)
            self.seeds = kept + (seeds if kept else max(seeds, 1))
        if step < self.seeds or (step - self.seeds) % self.case.picks_per_step == 0:
            self.shown = self.nearest

    def blocked(self) -> np.ndarray:
        most = np.float32(self.case.max_similarity)
        return (self.shown > most) & (self.case.max_similarity < 1)

    def gain(self) -> np.ndarray:
        if self.step == 0 and self.case.first == "isolated" and self.cosines is not None:
            return self.isolation()
        if self.step < self.seeds or self.case.method in ("topk", "random"):
            return self.weight
        if self.case.method == "sads":
            return self.weight * (1 - self.shown)
        if self.case.method == "maxmin":
            return 1 - self.shown
        tradeoff = np.float32(self.case.tradeoff)
        return tradeoff * self.weight - (1 - tradeoff) * self.shown

    def isolation(self) -> np.ndarray:
        cosine = self.cosines.to(slice(None))
        cosine[:, ~self.candidates] = -1
        np.fill_diagonal(cosine, -1)
        return -cosine.max(1)

    def pick(self, pick: int) -> None:
        if self.cosines is not None:
            self.nearest = np.maximum(self.nearest, self.cosines.to(pick))


_expf = ctypes.CDLL(None).expf  # NumPy has an exp of its own, with other last bits
_expf.argtypes, _expf.restype = [ctypes.c_float], ctypes.c_float


class Suppression:
    """select_suppress: the score, which each pick lowers nearby."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.score = np.clip(case.scores, -FLT_MAX, FLT_MAX)
        self.cosines = None if case.keys is None else Cosines(case.keys)
        self.close = np.zeros(self.score.shape, bool)

    def begin(self, step: int, kind: np.ndarray) -> None: ...

    def blocked(self) -> np.ndarray:
        return self.close

    def gain(self) -> np.ndarray:
        return self.score

    def pick(self, pick: int) -> None:
        case = self.case
        distance2 = np.zeros_like(self.score)
        if case.positions is not None:
            distance2 = ((case.positions - case.positions[pick]) ** 2).sum(-1)
        near = distance2 <= case.radius**2
        cosine = np.ones_like(self.score) if self.cosines is None else self.cosines.to(pick)
        if case.method == "hard":
            self.close |= near if self.cosines is None else near & (cosine > case.threshold)
            return
        difference = 1 - cosine
        if case.method == "soft":
            difference = difference * difference
        space, similarity = map(np.float32, case.scales())
        exponent = distance2 * space + difference * similarity
        for i in np.flatnonzero(near & (exponent > -104)):
            closeness = np.float32(_expf(exponent[i]))
            if case.method == "soft":
                with np.errstate(over="ignore"):
                    self.score[i] -= closeness * abs(self.score[i])
            else:
                self.score[i] -= closeness * np.float32(case.strength)


class Volume:
    """select_dpp: quality times the distance from the span of the picked, in integers."""

    def __init__(self, case: Case) -> None:
        self.quality = np.clip(case.scores, -FLT_MAX, FLT_MAX)
        self.left = np.rint(Cosines(case.keys).to(slice(None)).astype(np.float64) * 2.0**30)
        self.left = self.left.astype(np.int64)
        self.residual = np.where((case.keys != 0).any(-1), 1 << 62, 0)

    def begin(self, step: int, kind: np.ndarray) -> None: ...

    def blocked(self) -> np.ndarray:
        return ~(self.quality > 0) | (self.residual <= 46116860184273)

    def gain(self) -> np.ndarray:
        root = np.sqrt(self.residual.clip(0).astype(np.float32) * np.float32(2.0**-62))
        return self.quality * np.where(self.blocked(), np.float32(1), root)

    def pick(self, pick: int) -> None:
        share = self.residual[pick]
        pivot = 1 / np.sqrt(share * 2.0**-62) if share > 46116860184273 else 0.0
        value = np.rint(2.0 * self.left[:, pick] * pivot)
        component = value.clip(1 - 2.0**31, 2.0**31 - 1).astype(np.int64)
        self.residual -= component * component
        self.left -= np.outer(component, component) >> 32


class Coverage:
    """select_coverage: the score times what the token adds, in quanta."""

    def __init__(self, case: Case) -> None:
        self.score = np.clip(case.scores, -FLT_MAX, FLT_MAX)
        self.cosines = Cosines(case.keys).to(slice(None))
        weight = np.ones_like(self.score) if case.weights is None else case.weights
        weight = np.clip(np.nan_to_num(weight, posinf=FLT_MAX), 0, FLT_MAX).astype(np.float64)
        if case.valid is not None:
            weight = np.where(case.valid, weight, 0)
        self.weight = (weight / (weight.max() or 1)).astype(np.float32)
        self.quanta = np.float32(2.0 ** (51 - int(np.log2(self.score.size))))
        self.covered = np.zeros_like(self.score)

    def begin(self, step: int, kind: np.ndarray) -> None:
        term = self.weight * np.maximum(self.cosines - self.covered, 0) * self.quanta
        self.added = np.rint(term).astype(np.int64).sum(1) / float(self.quanta)

    def blocked(self) -> np.ndarray:
        return ~(self.score > 0) | (self.added <= 2.0**-30)

    def gain(self) -> np.ndarray:
        gain = np.clip(self.score.astype(np.float64) * self.added, -FLT_MAX, FLT_MAX)
        return np.where(self.blocked(), self.score, gain.astype(np.float32))

    def pick(self, pick: int) -> None:
        self.covered = np.maximum(self.covered, self.cosines[pick])


def expected(case: Case) -> np.ndarray:
    parts = []
    for start, image in case.images():
        picks = plain_greedy(image) + (start if case.sizes else 0)
        parts.append(np.sort(picks) if case.sort else picks)
    return np.concatenate(parts)
