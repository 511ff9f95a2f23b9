"""``zoprune inspect`` on a checkpoint's directory."""

import json
import re

import pytest

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import torch
from zoprune.cli import costs, main

from tests.hf.linear_models import gemma3, paligemma
from tests.hf.mlp_models import llava, mistral3


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (llava, "Linear(24 -> 32, bias) -> gelu -> Linear(32 -> 32, bias)"),
        (mistral3, "RMSNorm(24 x 4 patches) -> Linear(96 -> 24) -> Linear(24 -> 32)"),
    ],
)
def test_inspect_describes_the_projector(build, expected, tmp_path, capsys):
    build().config.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path), "--tokens", "50", "--keep", "7"]) == 0
    output = capsys.readouterr().out
    assert expected in output and "MFLOP for each visual token" in output
    assert re.search(r"time +\d+\.\d ms to score 50 tokens, \d+\.\d ms to select 7\n", output)
    assert re.search(r"saved +-?\d+ ms of \d+ ms of prefill, -?\d+ times", output)


@pytest.mark.parametrize(
    ("build", "expected"),
    [(gemma3, "Gemma3RMSNorm(24) -> Linear(24 -> 32)"), (paligemma, "Linear(24 -> 32, bias)")],
)
def test_a_linear_projector_needs_no_scoring(build, expected, tmp_path, capsys):
    build().config.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert expected in output and "selection by diversity only" in output


def test_a_directory_without_a_model_is_an_error(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "a directory with a config.json" in capsys.readouterr().err


def test_a_model_without_a_family_is_an_error(tmp_path, capsys):
    from transformers import Blip2Config

    Blip2Config().save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 2
    assert "got Blip2ForConditionalGeneration" in capsys.readouterr().err


def test_more_to_keep_than_there_is_is_an_error(tmp_path, capsys):
    assert main(["inspect", str(tmp_path), "--keep", "600"]) == 2
    assert "--keep: expected a count from 1 to 576 or a ratio" in capsys.readouterr().err


def test_as_an_object(tmp_path, capsys):
    llava().config.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path), "--tokens", "50", "--keep", "0.1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["projector"]["name"] == "model.multi_modal_projector"
    assert facts["metric"] == [1, 32, 32] and facts["per"] == ["image", "call"]
    assert facts["times"]["keep"] == 5 and facts["times"]["score_seconds"] > 0


@pytest.mark.parametrize(
    "text", ["{", "[]", '"llava"', '{"model_type": "llava"', '{"model_type": "nothing"}', "\x00"]
)
def test_a_broken_config_is_an_error(text, tmp_path, capsys):
    (tmp_path / "config.json").write_text(text)
    assert main(["inspect", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("zoprune inspect: error: MODEL: expected a model"), error


def test_a_config_with_values_of_another_kind_is_an_error(tmp_path, capsys):
    config = llava().config.to_dict()
    config["text_config"]["num_attention_heads"] = "many"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["inspect", str(tmp_path)]) == 2
    assert "zoprune inspect: error: MODEL: expected a model" in capsys.readouterr().err


@torch.no_grad()
def test_prefill_is_measured_on_a_layer_of_the_model(monkeypatch):
    """What is timed computes: every weight is a finite number, and the layers are those."""
    outputs = []
    monkeypatch.setattr(costs, "_seconds", lambda call: outputs.append(call()) or 1.5)
    with torch.device("meta"):
        model = mistral3()
    assert costs.prefill(model, 9) == 2 * 1.5  # two layers
    assert outputs[0].last_hidden_state.shape == (1, 9, 32)
    assert outputs[0].last_hidden_state.isfinite().all()
    assert costs.pruning(model, 9, 4) == (1.5, 1.5)
    scores, kept = outputs[1:]
    assert scores.isfinite().all() and scores.unique().numel() > 1 and len(kept) == 4
