# Written by docs/generate.py.

from torch import Tensor

from ._register import OPERATORS as OPERATORS
from .budget import budget as budget
from .compact import compact as compact
from .directions import directions as directions
from .expected_sensitivity import expected_sensitivity as expected_sensitivity
from .fold_metric import fold_metric as fold_metric
from .frame_change import frame_change as frame_change
from .merge import merge as merge
from .merge_bipartite import merge_bipartite as merge_bipartite
from .project_and_select import project_and_select as project_and_select
from .score_and_select import score_and_select as score_and_select
from .select import select as select
from .select_coverage import select_coverage as select_coverage
from .select_dpp import select_dpp as select_dpp
from .select_suppress import select_suppress as select_suppress
from .sensitivity import sensitivity as sensitivity

__all__ = ["budget", "compact", "directions", "expected_sensitivity", "fold_metric",
    "frame_change", "merge", "merge_bipartite", "merge_varlen", "project_and_select",
    "project_and_select_varlen", "score_and_select", "score_and_select_varlen", "select",
    "select_coverage", "select_coverage_varlen", "select_dpp", "select_dpp_varlen",
    "select_suppress", "select_suppress_varlen", "select_varlen", "sensitivity"]

def merge_varlen(tokens: Tensor, keys: Tensor, indices: Tensor, cu_tokens: Tensor,
    cu_keep: Tensor, weights: Tensor | None = ..., valid: Tensor | None = ..., *,
    rule: str = ...) -> tuple[Tensor, Tensor]: ...
def project_and_select_varlen(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor,
    b2: Tensor | None, cu_tokens: Tensor, cu_keep: Tensor, total_keep: int,
    directions: Tensor | None = ..., metric: Tensor | None = ..., keys: Tensor | None = ...,
    must_keep: Tensor | None = ..., valid: Tensor | None = ..., positions: Tensor | None = ...,
    weights: Tensor | None = ..., *, num_directions: int = ..., step: float = ...,
    distribution: str = ..., seed: int = ..., activation: str = ..., method: str = ...,
    max_similarity: float = ..., sort: bool = ..., tradeoff: float = ..., first: str = ...,
    picks_by_score: int = ..., centre: bool = ..., picks_per_step: int = ..., rule: str = ...,
    sigma_space: float = ..., sigma_similarity: float = ..., radius: float = ...,
    strength: float = ..., threshold: float = ...) -> tuple[Tensor, Tensor, Tensor]: ...
def score_and_select_varlen(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor,
    b2: Tensor | None, cu_tokens: Tensor, cu_keep: Tensor, total_keep: int,
    directions: Tensor | None = ..., metric: Tensor | None = ..., keys: Tensor | None = ...,
    must_keep: Tensor | None = ..., valid: Tensor | None = ..., positions: Tensor | None = ...,
    weights: Tensor | None = ..., *, num_directions: int = ..., step: float = ...,
    distribution: str = ..., seed: int = ..., activation: str = ..., method: str = ...,
    max_similarity: float = ..., sort: bool = ..., tradeoff: float = ..., first: str = ...,
    picks_by_score: int = ..., centre: bool = ..., picks_per_step: int = ..., rule: str = ...,
    sigma_space: float = ..., sigma_similarity: float = ..., radius: float = ...,
    strength: float = ..., threshold: float = ...) -> tuple[Tensor, Tensor]: ...
def select_coverage_varlen(scores: Tensor, keys: Tensor, cu_tokens: Tensor, cu_keep: Tensor,
    total_keep: int, weights: Tensor | None = ..., must_keep: Tensor | None = ...,
    valid: Tensor | None = ..., *, sort: bool = ...) -> Tensor: ...
def select_dpp_varlen(quality: Tensor, keys: Tensor, cu_tokens: Tensor, cu_keep: Tensor,
    total_keep: int, must_keep: Tensor | None = ..., valid: Tensor | None = ..., *,
    sort: bool = ...) -> Tensor: ...
def select_suppress_varlen(scores: Tensor, keys: Tensor | None, cu_tokens: Tensor,
    cu_keep: Tensor, total_keep: int, positions: Tensor | None = ...,
    must_keep: Tensor | None = ..., valid: Tensor | None = ..., *, rule: str = ...,
    sigma_space: float = ..., sigma_similarity: float = ..., radius: float = ...,
    strength: float = ..., threshold: float = ..., sort: bool = ...) -> Tensor: ...
def select_varlen(scores: Tensor, keys: Tensor | None, cu_tokens: Tensor, cu_keep: Tensor,
    total_keep: int, must_keep: Tensor | None = ..., valid: Tensor | None = ..., *,
    method: str = ..., max_similarity: float = ..., sort: bool = ..., tradeoff: float = ...,
    first: str = ..., picks_by_score: int = ..., centre: bool = ...,
    picks_per_step: int = ...) -> Tensor: ...
