"""Greedy tokens of vLLM equal those of transformers, with every budget, cache and chunk."""

import json
import subprocess
import sys

import pytest

from tests.vllm.table import CASES


@pytest.mark.parametrize("name", CASES)
def test_tokens_equal_those_of_transformers(name, tmp_path):
    command = [sys.executable, "-m", "tests.vllm.table", name, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    table = json.loads(result.stdout.splitlines()[-1])
    assert len(table) >= (11 if CASES[name].tokens else 3)
    wrong = {check: counts for check, counts in table.items() if counts[0] != counts[1]}
    assert not wrong, f"{name}: right answers of all: {wrong}"
