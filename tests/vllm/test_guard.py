"""Nothing goes unpruned by accident: misspelt and misplaced options, workers, requests."""

import pickle
from types import SimpleNamespace

import pytest
from zoprune.vllm import guard, plugin
from zoprune.vllm.options import Options, is_option


def model(given=None, text=None, **config):
    part = SimpleNamespace(model_type="llama", **(text or {}))
    hf = SimpleNamespace(model_type="llava", text_config=part, **config)
    return SimpleNamespace(
        hf_config=hf, multimodal_config=SimpleNamespace(mm_processor_kwargs=given)
    )


@pytest.mark.parametrize(
    "name", ["zoprune_kep", "zooprune_keep", "zoprune-keep", "ZOPRUNE_KEEP", "zoprune", "ZooPruneK"]
)
def test_misspelt_options_are_refused(name):
    with pytest.raises(ValueError, match=f"zoprune: {name}: expected one of zoprune_keep, "):
        Options.of(SimpleNamespace(**{name: 5}))


@pytest.mark.parametrize("name", ["zoo", "prune", "keep", "hidden_size", "optimize_zoprune"])
def test_other_names_are_not_ours(name):
    assert not is_option(name)
    assert Options.of(SimpleNamespace(**{name: 5})) is None


def test_misplaced_options_are_refused():
    guard.check_model(model())
    with pytest.raises(ValueError, match="zoprune_keep: expected beside the model's own options"):
        guard.check_model(model(text={"zoprune_keep": 5}))
    with pytest.raises(ValueError, match="expected in --hf-overrides, got it in --mm-processor-kw"):
        guard.check_model(model({"zoprune_keep": 5}))
    with pytest.raises(ValueError, match="expected in --hf-overrides, got it in --additional-conf"):
        guard.check_server(SimpleNamespace(additional_config={"zoprune_keep": 5}))
    guard.check_server(SimpleNamespace(additional_config={"other": 5}))
    text = model()
    text.multimodal_config = None
    guard.check_model(text)


def test_a_worker_that_gets_a_pruned_model_loads_the_plug_in(monkeypatch):
    stock, pruned = model(), model(zoprune_keep=5)
    guard.check_model(stock)
    guard.check_model(pruned)
    assert not hasattr(stock, "_zoprune")
    data, loads = pickle.dumps(pruned), []
    monkeypatch.setattr(plugin, "install", lambda: loads.append(1))
    pickle.loads(data)
    assert loads == [1]

    def fail():
        raise ImportError("no such kernel")

    monkeypatch.setattr(plugin, "install", fail)
    with pytest.raises(ImportError, match="no such kernel"):
        pickle.loads(data)


def test_a_request_to_an_unpruned_server_is_refused():
    stock, pruned = SimpleNamespace(), SimpleNamespace(layout=None)
    request = SimpleNamespace(hf_processor_mm_kwargs={"zoprune_keep": 5})
    with pytest.raises(ValueError, match=r"zoprune_keep: expected a server that prunes, got one"):
        guard.check_request(stock, request, None)
    guard.check_request(pruned, request, None)
    guard.check_request(stock, SimpleNamespace(hf_processor_mm_kwargs={"size": 3}), None)


def test_an_architecture_may_be_named_so_that_no_other_vllm_knows_it():
    config = SimpleNamespace(model_impl="auto")
    name = "LlavaForConditionalGeneration"
    assert plugin._supported([f"ZoPrune{name}"], config) == name
    assert plugin._supported(name, config) == name
