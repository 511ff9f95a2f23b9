"""What the server was started with: attributes ``zoprune_*`` of the model's configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from zoprune_kernels.methods import DISTRIBUTIONS, METHODS, ScoreOptions, SelectOptions

PREFIX = "zoprune_"
KEEP = PREFIX + "keep"
# Methods that take no max_similarity.
WITHOUT_LIMIT = [name for name, m in METHODS.items() if m.options is not SelectOptions]
ESTIMATORS = ("closed", "directions")
PROMPT = ("prompt_seeds", "relevance", "query")  # options that would look at the prompt


@dataclass(frozen=True)
class Options:
    """What is kept of each image, and how it is chosen; the names without ``zoprune_``."""

    keep: int | float
    method: str = SelectOptions.method
    max_similarity: float = SelectOptions.max_similarity
    estimator: str = "closed"
    num_directions: int = ScoreOptions.num_directions
    step: float = ScoreOptions.step
    distribution: str = ScoreOptions.distribution
    seed: int = ScoreOptions.seed
    through_norm: bool = True

    def __post_init__(self) -> None:
        check_keep(self.keep)
        for name, allowed in (
            ("method", METHODS),
            ("estimator", ESTIMATORS),
            ("distribution", DISTRIBUTIONS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                _refuse(name, f"one of {', '.join(allowed)}", value)
        if not _is_number(self.max_similarity) or not -1 <= self.max_similarity <= 1:
            _refuse("max_similarity", "a cosine in [-1, 1]", self.max_similarity)
        if self.max_similarity < 1 and self.method in WITHOUT_LIMIT:
            _refuse("max_similarity", f"1 with method '{self.method}'", self.max_similarity)
        if not _is_count(self.num_directions):
            _refuse("num_directions", "a count >= 1", self.num_directions)
        if not _is_number(self.step) or not 0 <= self.step <= 1e6:
            _refuse("step", "a number in [0, 1e6]", self.step)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            _refuse("seed", "an integer", self.seed)
        if not isinstance(self.through_norm, bool):
            _refuse("through_norm", "true or false", self.through_norm)

    @classmethod
    def of(cls, config: Any) -> Options | None:
        """The options on a model's configuration; None where there are none."""
        given = {name: value for name, value in vars(config).items() if is_option(name)}
        if not given:
            return None
        known = {PREFIX + field.name: field.name for field in fields(cls)}
        for name in given:
            if name.removeprefix(PREFIX) in PROMPT:
                raise ValueError(
                    f"zoprune: {name}: expected a choice that goes by the image alone, got "
                    "one that looks at the prompt: vLLM's encoder and prefix caches know the image "
                    "and the options only, so another prompt would get this prompt's tokens"
                )
            if name not in known:
                raise ValueError(f"zoprune: {name}: expected one of {', '.join(known)}")
        if KEEP not in given:
            raise ValueError(f"zoprune: {KEEP}: expected beside {next(iter(given))}")
        return cls(**{known[name]: value for name, value in given.items()})

    def of_request(self, kwargs: Mapping[str, Any]) -> int | float:
        """The budget of one request, whose ``mm_processor_kwargs`` may name another one."""
        for name, value in kwargs.items():
            if is_option(name) and name != KEEP:
                raise ValueError(
                    f"zoprune: {name}: expected at the server's start (--hf-overrides), got it "
                    f"in a request, where only {KEEP} may stand"
                )
            if isinstance(value, Mapping) and any(is_option(n) for n in value):
                raise ValueError(f"zoprune: {name}: expected {KEEP} beside it, got it inside")
        keep = kwargs.get(KEEP, self.keep)
        check_keep(keep)
        return keep

    def identity(self, keep: int | float) -> str:
        """All that a picked token depends on besides model and image, for vLLM's caches."""
        return json.dumps(asdict(self) | {"keep": keep}, sort_keys=True)


def without_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if not is_option(name)}


def is_option(name: Any) -> bool:
    """Whether a name means one of the options, rightly spelt or not (``zooprune-keep``)."""
    letters = str(name).lower().replace("_", "").replace("-", "")
    return letters.startswith(("zoprune", "zooprune"))


def misplaced(config: Any, depth: int = 3) -> str | None:
    """An option within a part of a model's configuration (``text_config``), where none is read."""
    for part in vars(config).values() if depth else ():
        if hasattr(part, "model_type"):
            names = [name for name in vars(part) if is_option(name)]
            found = names[0] if names else misplaced(part, depth - 1)
            if found:
                return found
    return None


def check_keep(keep: Any) -> None:
    """ValueError unless ``keep`` is a count >= 1 or a ratio in (0, 1] given as a float."""
    if not _is_count(keep) and not (isinstance(keep, float) and 0 < keep <= 1):
        _refuse("keep", "a count >= 1 or a ratio in (0, 1] as a float", keep)


def budget(keep: int | float, tokens: int) -> int:
    """How many of an image's tokens stay: a count, or a ratio of them; at least one."""
    count = keep if isinstance(keep, int) else round(keep * tokens)
    return min(max(count, 1), tokens)


def encode_keep(keep: int | float) -> float:
    """One number for a count or a ratio: counts are positive, ratios negative."""
    return float(keep) if isinstance(keep, int) else -keep


def decode_keep(code: float) -> int | float:
    return int(code) if code > 0 else -code


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refuse(name: str, expected: str, got: Any) -> None:
    raise ValueError(f"zoprune: {PREFIX}{name}: expected {expected}, got {got!r}")
