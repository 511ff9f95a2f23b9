"""The operators' twins for packed images. ``varlen.pyi`` has their signatures, for type checkers:
``python docs/generate.py`` derives it, as ``_register.varlen`` derives the operators."""

from .merge import merge_varlen as merge_varlen
from .project_and_select import project_and_select_varlen as project_and_select_varlen
from .score_and_select import score_and_select_varlen as score_and_select_varlen
from .select import select_varlen as select_varlen
from .select_coverage import select_coverage_varlen as select_coverage_varlen
from .select_dpp import select_dpp_varlen as select_dpp_varlen
from .select_suppress import select_suppress_varlen as select_suppress_varlen
