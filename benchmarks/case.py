"""What every benchmark measures: a call, the check of its result, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from zoprune_kernels.testing import Check

from .shapes import Shape

X = TypeVar("X")  # what a call reads
Row = dict[str, Any]
Run = Callable[[X], Any]
Terms = Sequence[tuple[str, float]]


@dataclass(frozen=True, eq=False)
class Case(Generic[X]):
    """One operator call.

    ``against`` names sums of baselines, each with the factor that makes the work equal. ``goal`` is
    the ratio to reach against the first of them, ``opponent`` how a document calls it, ``noted``
    goes into the row as it is.
    """

    op: str
    variant: str
    run: Run[X]
    check: Callable[[X, Any], list[Check]]
    against: Mapping[str, Terms] = field(default_factory=dict)
    goal: float | None = None
    opponent: str = ""
    noted: Row = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.op} ({self.variant})"

    @property
    def baselines(self) -> set[str]:
        return {name for terms in self.against.values() for name, _ in terms}


@dataclass(frozen=True)
class Group(Generic[X]):
    """Cases that read the same inputs and share baselines."""

    shape: Shape
    dtype: str
    inputs: X
    baselines: Mapping[str, Run[X]]
    cases: Sequence[Case[X]]

    def only(self, keep: Callable[[Case[X]], bool]) -> Group[X]:
        """Some of the cases, and the baselines that they are compared with."""
        cases = [case for case in self.cases if keep(case)]
        used = {name for case in cases for name in case.baselines}
        needed = {name: run for name, run in self.baselines.items() if name in used}
        return replace(self, baselines=needed, cases=cases)

    def row(self, case: Case[X]) -> Row:
        """The beginning of the case's row."""
        return {
            "op": case.op,
            "variant": case.variant,
            "shape": self.shape.name,
            "dtype": self.dtype,
        }


def checked(case: Case[X], inputs: X) -> Row:
    """Calls once: ``checks``, or why the result is ``refused``."""
    try:
        checks = case.check(inputs, case.run(inputs))
    except Exception as error:  # an operator that fails must not hide the others
        return {"refused": f"{type(error).__name__}: {error}"}
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        return {"refused": "; ".join(failed)}
    return {"checks": [str(check) for check in checks]}
