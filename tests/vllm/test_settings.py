"""Answers under what a server may be set to: adapters, guesses, videos, quantised checkpoints,
vLLM's other runner."""

import json
import subprocess
import sys

import pytest

from tests.vllm.settings import SETTINGS


def check(*command):
    result = subprocess.run(
        [sys.executable, "-m", *map(str, command)], capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stderr[-3000:]
    table = json.loads(result.stdout.splitlines()[-1])
    assert table
    wrong = {check: counts for check, counts in table.items() if counts[0] != counts[1]}
    assert not wrong, f"right answers of all: {wrong}"


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_are_right(name, tmp_path):
    check("tests.vllm.settings", tmp_path, name)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_the_v2_runner_answers_as_transformers_does(name, tmp_path):
    pytest.importorskip("triton")
    check("tests.vllm.runner_v2", tmp_path, name)
