"""The folded metric is found again by its content, and only then."""

import torch
from zoprune.vllm import folding


def test_a_metric_is_folded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(folding, "cache_folder", lambda: tmp_path / "zoprune")
    weights = {"linear_1.weight": torch.randn(5, 3), "linear_2.weight": torch.randn(4, 5)}
    key = folding.fingerprint(weights, "closed", True)
    calls = []

    def fold():
        calls.append(1)
        return {"metric": torch.randn(5, 5, dtype=torch.bfloat16), "gram": torch.eye(5)}

    device = torch.device("cpu")
    first, how = folding.folded(key, device, fold)
    assert how == "folded"
    again, how = folding.folded(key, device, fold)
    assert how == "from the cache" and len(calls) == 1
    assert all(torch.equal(first[n], again[n]) and first[n].dtype == again[n].dtype for n in first)
    assert [p.name for p in (tmp_path / "zoprune").iterdir()] == [f"{key}.safetensors"]

    (tmp_path / "zoprune" / f"{key}.safetensors").write_bytes(b"half a file")
    assert folding.folded(key, device, fold)[1] == "folded" and len(calls) == 2


def test_other_weights_or_options_have_another_key():
    weights = {"linear_1.weight": torch.randn(5, 3)}
    changed = {"linear_1.weight": weights["linear_1.weight"] + 1e-6}
    cast = {"linear_1.weight": weights["linear_1.weight"].bfloat16()}
    keys = [folding.fingerprint(w, "closed", True) for w in (weights, changed, cast)]
    keys.append(folding.fingerprint(weights, "closed", False))
    assert len(set(keys)) == len(keys)
    assert folding.fingerprint(dict(weights), "closed", True) == keys[0]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(folding, "cache_folder", lambda: tmp_path / "file" / "zoprune")
    result, how = folding.folded("k", torch.device("cpu"), lambda: {"metric": torch.eye(2)})
    assert torch.equal(result["metric"], torch.eye(2)) and how.startswith("folded, not cached")
