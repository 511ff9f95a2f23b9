"""About 1,000 random calls here, ZOPRUNE_FUZZ calls in all by ``make fuzz`` (tests/ops/fuzz.py)."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ops import fuzz
from zoprune_kernels.operators import OPERATORS

CASES = int(os.environ.get("ZOPRUNE_FUZZ", "1000"))


@pytest.mark.filterwarnings("ignore:zoprune")
@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_random_calls(op, one_thread):
    @settings(
        max_examples=-(-CASES // len(OPERATORS)),
        deadline=None,  # no test depends on how fast a machine is
        database=None,
        derandomize="ZOPRUNE_FUZZ" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data):
        fuzz.check(data.draw(fuzz.calls(op)))

    run()
