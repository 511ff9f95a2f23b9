"""Two ranks, tensor-parallel, with the encoder's data parallelism, or stages, answer the same."""

import json
import subprocess
import sys


def test_two_ranks_answer_as_transformers_does(tmp_path):
    command = [sys.executable, "-m", "tests.vllm.parallel", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    answers = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 1 and len(answers[0]) == 4
    assert all(right == total for right, total in answers[0].values()), answers
