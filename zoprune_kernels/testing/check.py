"""What a comparison found."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Check:
    """What was compared, the largest error found, the largest allowed, and where it was found.

    ``exact`` is known of selections: whether every pick is the very token of exact arithmetic.
    """

    what: str
    error: float
    tolerance: float
    where: str = ""
    exact: bool | None = None

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN

    def __str__(self) -> str:
        at = f" ({self.where})" if self.where and not self.passed else ""
        return f"{self.what}: error {self.error:.1e}, at most {self.tolerance:.0e} allowed{at}"


def relative_error(got: Tensor, want: Tensor) -> float:
    """Largest relative error of the last dimension's vectors; of the elements for a vector.

    Where nothing is wanted, the error is absolute.
    """
    got, want = got.double().cpu(), want.double().cpu()
    error, size = (got - want).abs(), want.abs()
    if got.dim() > 1:
        error, size = error.norm(dim=-1), want.norm(dim=-1)
    if not error.numel():
        return 0.0
    return float((error / size.where(size > 0, size.new_ones(()))).max())
