"""Answers under what a server may be set to: adapters, guesses, videos, quantised checkpoints."""

import json
import subprocess
import sys

import pytest

from tests.vllm.settings import SETTINGS


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_are_right(name, tmp_path):
    command = [sys.executable, "-m", "tests.vllm.settings", str(tmp_path), name]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    table = json.loads(result.stdout.splitlines()[-1])
    assert table
    wrong = {check: counts for check, counts in table.items() if counts[0] != counts[1]}
    assert not wrong, f"{name}: right answers of all: {wrong}"
