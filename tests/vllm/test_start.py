"""What is refused before a server starts, and that nothing is replaced without the option."""

import pytest

from tests.vllm import checkpoints, engine, saving

engine.ENVIRONMENT["VLLM_LOGGING_LEVEL"] = "ERROR"


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    engine.prepare(folder / "cache")
    return checkpoints.llava(folder / "llava")


@pytest.fixture(scope="module")
def llama(llava):
    """A model that cannot be pruned."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = saving.tokenizer(["<image>"])
    model = LlamaForCausalLM(LlamaConfig(**saving.text("llama", len(words))))
    return saving.save(model, words, llava.parent / "llama")


def configure(folder, overrides, **options):
    """What a server does first."""
    from vllm.engine.arg_utils import EngineArgs

    options = {**engine.OPTIONS, **options}
    return EngineArgs(model=str(folder), hf_overrides=overrides, **options).create_engine_config()


def model_class(config):
    from vllm.model_executor.model_loader import get_model_architecture

    return get_model_architecture(config.model_config)[0]


def test_the_option_decides_on_the_class(llava):
    from vllm.model_executor.models.llava import LlavaForConditionalGeneration as Stock
    from zoprune.vllm.architectures.llava import Llava

    for _ in range(2):
        assert model_class(configure(llava, {"zoprune_keep": 5})) is Llava
        assert model_class(configure(llava, {})) is Stock
    assert "zoprune" not in str(Stock._processor_factory)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"zoprune_keep": 0}, "zoprune_keep: expected a count >= 1 or a ratio"),
        ({"zoprune_method": "topk"}, "zoprune_keep: expected beside zoprune_method"),
        ({"zoprune_keep": 5, "zoprune_prompt_seeds": 1}, "looks at the prompt"),
    ],
)
def test_bad_options_are_refused(llava, overrides, message):
    with pytest.raises(Exception, match=message.split(":")[0]) as error:
        configure(llava, overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "overrides, options, message",
    [
        ({"zoprune_kep": 5}, {}, "zoprune_kep: expected one of zoprune_keep"),
        ({"zooprune_keep": 5}, {}, "zooprune_keep: expected one of zoprune_keep"),
        ({"text_config": {"zoprune_keep": 5}}, {}, "expected beside the model's own options"),
        ({}, {"mm_processor_kwargs": {"zoprune_keep": 5}}, "got it in --mm-processor-kwargs"),
        ({}, {"additional_config": {"zoprune_keep": 5}}, "got it in --additional-config"),
    ],
)
def test_an_option_in_the_wrong_place_does_not_start_an_unpruned_server(
    llava, overrides, options, message
):
    with pytest.raises(Exception, match=message):
        configure(llava, overrides, **options)


def test_a_worker_whose_environment_leaves_the_plug_in_out_loads_it(llava, tmp_path):
    """What a worker gets is pickled; here it arrives in a process without any plug-in."""
    import os
    import pickle
    import subprocess
    import sys

    path = tmp_path / "config"
    path.write_bytes(pickle.dumps(configure(llava, {"zoprune_keep": 5})))
    program = (
        "import pickle, sys; config = pickle.load(open(sys.argv[1], 'rb'))\n"
        "from vllm.model_executor.model_loader import get_model_architecture\n"
        "print(get_model_architecture(config.model_config)[0].__module__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "VLLM_PLUGINS": ""},
        capture_output=True,
        text=True,
    )
    assert result.stdout.split()[-1:] == ["zoprune.vllm.architectures.llava"], result.stderr[-2000:]


def test_a_name_that_only_the_plug_in_knows(llava):
    from zoprune.vllm.architectures.llava import Llava

    named = {"architectures": ["ZoPruneLlavaForConditionalGeneration"]}
    config = configure(llava, {"zoprune_keep": 5, **named})
    assert model_class(config) is Llava
    assert config.model_config.architecture == "LlavaForConditionalGeneration"
    with pytest.raises(Exception, match="not supported"):  # as vLLM without the plug-in
        configure(llava, named)


def test_a_model_that_cannot_be_pruned_is_refused(llama, llava):
    assert model_class(configure(llama, {})).__name__ == "LlamaForCausalLM"
    with pytest.raises(Exception, match=r"zoprune: model: expected one of Llava.*got LlamaForC"):
        configure(llama, {"zoprune_keep": 5})
    with pytest.raises(Exception, match="--model-impl: expected auto or vllm"):
        configure(llava, {"zoprune_keep": 5}, model_impl="transformers")


def test_a_version_without_a_hook_is_refused(llava, monkeypatch):
    from vllm.multimodal.processing import BaseMultiModalProcessor

    monkeypatch.delattr(BaseMultiModalProcessor, "_get_mm_hashes")
    with pytest.raises(Exception, match=r"_get_mm_hashes \(0.32 and 0.33 have it\), got 0"):
        configure(llava, {"zoprune_keep": 5})
    configure(llava, {})


def test_a_hook_with_other_arguments_is_refused(llava, monkeypatch):
    from vllm.multimodal.processing import BaseMultiModalProcessor

    monkeypatch.setattr(BaseMultiModalProcessor, "_get_mm_hashes", lambda self, items, uuids: {})
    with pytest.raises(Exception, match=r"_get_mm_hashes\(inputs\)"):
        configure(llava, {"zoprune_keep": 5})


def test_a_plug_in_that_fails_refuses_the_option(llava, monkeypatch):
    import zoprune.vllm
    from vllm.config import ModelConfig
    from zoprune.vllm import plugin

    def install():
        raise ImportError("no such kernel")

    monkeypatch.setattr(plugin, "install", install)
    monkeypatch.setattr(ModelConfig, "__post_init__", ModelConfig.__post_init__)
    zoprune.vllm.register()
    configure(llava, {})
    with pytest.raises(Exception, match="the plug-in failed to load: no such kernel"):
        configure(llava, {"zoprune_keep": 5})


def test_installing_twice_changes_nothing(llava):
    import zoprune.vllm
    from vllm.model_executor.models.registry import _ModelRegistry

    before = _ModelRegistry.resolve_model_cls
    zoprune.vllm.register()
    assert _ModelRegistry.resolve_model_cls is before
