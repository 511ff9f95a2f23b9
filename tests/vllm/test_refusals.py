"""What does not go together with pruning is refused by name."""

from types import SimpleNamespace

import pytest
from zoprune.vllm import refusals
from zoprune.vllm.layout import Layers, Layout

PLAIN = Layout("projector", Layers("a", "b"))
MROPE = Layout("projector", Layers("a", "b"), mrope=True)


def settings(**changes):
    parts = dict(
        multimodal_config=SimpleNamespace(mm_encoder_tp_mode="weights", video_pruning_rate=None),
        parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        compilation_config=SimpleNamespace(compile_mm_encoder=False, cudagraph_mm_encoder=False),
        lora_config=SimpleNamespace(enable_tower_connector_lora=False),
        speculative_config=None,
        ec_transfer_config=None,
    )
    for where, (name, value) in changes.items():
        if parts[where] is None:
            parts[where] = SimpleNamespace()
        setattr(parts[where], name, value)
    model = SimpleNamespace(multimodal_config=parts.pop("multimodal_config"))
    return SimpleNamespace(model_config=model, **parts)


def test_the_usual_settings_pass():
    refusals.check(settings(), PLAIN)
    refusals.check(settings(), MROPE)
    refusals.check(settings(multimodal_config=("mm_encoder_tp_mode", "data")), MROPE)
    refusals.check(settings(compilation_config=("cudagraph_mm_encoder", True)), MROPE)
    refusals.check(settings(parallel_config=("pipeline_parallel_size", 2)), PLAIN)
    refusals.check(settings(parallel_config=("prefill_context_parallel_size", 2)), PLAIN)
    refusals.check(settings(speculative_config=("method", "ngram")), MROPE)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(multimodal_config=("video_pruning_rate", 0.5)), "--video-pruning-rate"),
        (dict(lora_config=("enable_tower_connector_lora", True)), "--enable-tower-connector-lora"),
        (dict(compilation_config=("compile_mm_encoder", True)), "compile_mm_encoder"),
        (dict(parallel_config=("pipeline_parallel_size", 2)), "--pipeline-parallel-size"),
        (dict(parallel_config=("prefill_context_parallel_size", 2)), "--prefill-context-parallel"),
        (dict(ec_transfer_config=("ec_role", "ec_both")), "--ec-transfer-config"),
        (dict(speculative_config=("method", "eagle3")), "--speculative-config"),
        (
            dict(
                compilation_config=("cudagraph_mm_encoder", True),
                multimodal_config=("mm_encoder_tp_mode", "data"),
            ),
            "cudagraph_mm_encoder with --mm-encoder-tp-mode data",
        ),
    ],
)
def test_each_refusal_names_the_setting(changes, message):
    with pytest.raises(ValueError, match=message):
        refusals.check(settings(**changes), MROPE)
