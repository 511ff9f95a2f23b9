"""What a processor with AMX would read behind a row, on one that has none."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoprune_kernels import _native

ROOT = Path(__file__).parents[2]
CALLS = """if True:
    import torch
    from tests.ops import test_scoring_cpu as scoring
    from zoprune_kernels.testing import DTYPES, calls
    torch.set_num_threads(1)
    for dtype in DTYPES:
        for call in calls(dtype):
            call.run()
        for d, hidden in ((33, 65), (31, 1100), (17, 1057)):
            scoring.test_nan_and_inf_stay_in_their_token("gelu", d, hidden, dtype)
        scoring.test_nan_in_a_weight_stays_in_its_row_of_the_metric(dtype)
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
@pytest.mark.skipif(not _native.LIBRARY.exists(), reason="the native library is not built")
def test_rows_of_products_end_with_a_cache_line(tmp_path):
    """AMX multiplies what is behind a row with zeros: NaN there would spread to the row. With
    scalar kernels all products are torch's."""
    library = tmp_path / "whole_lines.so"
    source = ROOT / "tests" / "cpu" / "whole_lines.cpp"
    subprocess.run(["g++", "-shared", "-fPIC", "-O1", source, "-o", library], check=True)
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(library), "ZOPRUNE_CPU_ISA": "scalar"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    seen, short = map(int, re.search(r"(\d+) products, (\d+) end", done.stdout).groups())
    assert seen > 100 and not short
