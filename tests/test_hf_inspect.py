"""``zoprune inspect`` on a checkpoint's directory."""

import pytest

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

from zoprune.cli import main

from .hf_linear_models import gemma3, smolvlm
from .hf_mlp_models import llava, mistral3


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (llava, "Linear(24 -> 32, bias) -> gelu -> Linear(32 -> 32, bias)"),
        (mistral3, "RMSNorm(24 x 4 patches) -> Linear(96 -> 24) -> Linear(24 -> 32)"),
    ],
)
def test_inspect_describes_the_projector(build, expected, tmp_path, capsys):
    build().config.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert expected in output and "MFLOP for each visual token" in output


@pytest.mark.parametrize(
    ("build", "expected"),
    [(gemma3, "Gemma3RMSNorm(24) -> Linear(24 -> 32)"), (smolvlm, "Linear(96 -> 32)")],
)
def test_a_linear_projector_needs_no_scoring(build, expected, tmp_path, capsys):
    build().config.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert expected in output and "selection by diversity only" in output


def test_a_directory_without_a_model_is_an_error(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "a directory with a config.json" in capsys.readouterr().err
