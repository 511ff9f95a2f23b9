"""What tests, benchmarks and projects downstream share: inputs, certificates, backends.

A certificate says whether a selection is one that exact greedy may return: it replays the picks in
float64 by the definitions of docs/selection.md and docs/family.md, independently of every backend
and of ``zoprune_kernels.reference``, and tells how far each pick was from the best token left.
Nothing here needs pytest.

    >>> import torch, zoprune_kernels
    >>> from zoprune_kernels import testing
    >>> scores, keys = torch.rand(63), testing.clustered(63, 40)
    >>> picks = zoprune_kernels.select(scores, keys, 9, sort=False)
    >>> testing.certify_select(picks, scores, keys).passed
    True
    >>> testing.certify_select(picks.flip(0), scores, keys).passed
    False

``certify`` checks a call of any operator, ``calls`` has one good call of each, ``refusals`` has
calls that must be refused, ``on_every_backend`` runs calls by each backend that is there.
"""

from .backends import fallback, on_backend, on_every_backend
from .calls import Call, call, calls, operator_calls, refusals
from .certificates import certify_coverage, certify_dpp, certify_select, certify_suppress
from .check import Check, relative_error
from .inputs import DTYPES, TinyProjector, clustered, grid, patches, projector
from .operators import (
    METRIC_TOLERANCE,
    OWN_KEYS_TOLERANCE,
    SCORE_TOLERANCE,
    TOKEN_TOLERANCE,
    certify,
    score_tolerance,
)

__all__ = [
    "DTYPES",
    "METRIC_TOLERANCE",
    "OWN_KEYS_TOLERANCE",
    "SCORE_TOLERANCE",
    "TOKEN_TOLERANCE",
    "Call",
    "Check",
    "TinyProjector",
    "call",
    "calls",
    "certify",
    "certify_coverage",
    "certify_dpp",
    "certify_select",
    "certify_suppress",
    "clustered",
    "fallback",
    "grid",
    "on_backend",
    "on_every_backend",
    "operator_calls",
    "patches",
    "projector",
    "refusals",
    "relative_error",
    "score_tolerance",
]
