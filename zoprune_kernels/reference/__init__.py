"""The mathematics in readable PyTorch: the truth that every other backend is compared with.

All functions run in float64 when their inputs are float64, else in float32. They are also the
registered fallback, so that each operator exists where no native kernel does.
"""

from .budget import budget as budget
from .compact import compact as compact
from .expected_sensitivity import expected_sensitivity as expected_sensitivity
from .fold_metric import fold_metric as fold_metric
from .frame_change import frame_change as frame_change
from .layers import ACTIVATION as ACTIVATION
from .layers import derivative as derivative
from .layers import project as project
from .merge import merge as merge
from .merge_bipartite import merge_bipartite as merge_bipartite
from .normalise import finite_scores as finite_scores
from .normalise import normalised_scores as normalised_scores
from .normalise import unit_keys as unit_keys
from .select import select as select
from .select_coverage import select_coverage as select_coverage
from .select_dpp import select_dpp as select_dpp
from .select_suppress import select_suppress as select_suppress
from .sensitivity import paper_sensitivity as paper_sensitivity
from .sensitivity import sensitivity as sensitivity
