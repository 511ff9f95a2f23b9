"""How the operators select: the methods, and their options with the operators' defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

METHODS = ("sads", "maxmin", "topk", "random", "mmr")
FAMILY = ("dpp", "suppress", "coverage")  # methods with an operator of their own
FIRST_PICKS = ("score", "isolated")
RULES = ("soft", "exponential", "hard")


@dataclass(frozen=True)
class SelectRule:
    """The options of ``select`` that decide the picks, with the operators' defaults."""

    method: str = "sads"
    max_similarity: float = 1.0
    tradeoff: float = 0.5
    first: str = "score"
    num_seed: int = 0
    centre: bool = False
    picks_per_step: int = 1

    @property
    def needs_keys(self) -> bool:
        """Whether tokens are compared with one another at all."""
        compared = self.method in ("sads", "maxmin", "mmr", *FAMILY) or self.first == "isolated"
        return compared or self.max_similarity < 1


@dataclass(frozen=True)
class Suppression:
    """The options of ``select_suppress`` that decide the picks, with the operators' defaults."""

    rule: str = "soft"
    sigma_space: float = 1.5
    sigma_similarity: float = 0.05
    radius: float = 5.0
    strength: float = 1.0
    threshold: float = 0.9


@dataclass(frozen=True)
class PruneRule:
    """How a ``*_and_select`` operator selects: by any method, with the method's options."""

    select: SelectRule
    suppression: Suppression
    positions: Tensor | None = None
    weights: Tensor | None = None

    @classmethod
    def of(
        cls, positions: Tensor | None = None, weights: Tensor | None = None, **options: Any
    ) -> PruneRule:
        suppression = {name: options.pop(name) for name in _SUPPRESSION if name in options}
        return cls(SelectRule(**options), Suppression(**suppression), positions, weights)

    @property
    def method(self) -> str:
        return self.select.method

    def pick(
        self,
        operators: Any,
        scores: Tensor,
        keys: Tensor | None,
        count: tuple[Any, ...],
        must_keep: Tensor | None = None,
        valid: Tensor | None = None,
        *,
        sort: bool = True,
    ) -> Tensor:
        """The picks of the method's own operator, which ``operators`` holds.

        ``count`` is (k,) or, for packed images, (cu_tokens, cu_keep, total_keep).
        """
        options: dict[str, Any] = {"must_keep": must_keep, "valid": valid, "sort": sort}
        name = f"select_{self.method}" if self.method in FAMILY else "select"
        if self.method not in FAMILY:
            options |= vars(self.select)
        if self.method == "suppress":
            options |= {"positions": self.positions, **vars(self.suppression)}
        if self.method == "coverage":
            options["weights"] = self.weights
        suffix = "" if len(count) == 1 else "_varlen"
        return getattr(operators, name + suffix)(scores, keys, *count, **options)


_SUPPRESSION = tuple(field.name for field in fields(Suppression))
