"""A checkpoint with linear layers in int8, as compressed-tensors writes them."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def quantise(checkpoint: Path, folder: Path, parts: tuple[str, ...]) -> Path:
    """``checkpoint`` with the layers of modules whose names begin with one of ``parts`` in int8."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights, ignored = {}, ["lm_head"]
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        module = name.removesuffix(".weight")
        is_linear = weight.dim() == 2 and module != name and "embed" not in name
        if is_linear and "lm_head" not in name and name.removeprefix("model.").startswith(parts):
            scale = weight.abs().amax(1, keepdim=True) / 127
            weights[name] = (weight / scale).round().to(torch.int8)
            weights[f"{name}_scale"] = scale
        else:
            weights[name] = weight
            ignored += [module, module.removeprefix("model.")] if is_linear else []
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    eight = dict(num_bits=8, type="int", symmetric=True)
    group = dict(
        targets=["Linear"],
        weights=dict(eight, strategy="channel", dynamic=False),
        input_activations=dict(eight, strategy="token", dynamic=True),
    )
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(
        quant_method="compressed-tensors",
        format="int-quantized",
        quantization_status="compressed",
        config_groups=dict(group_0=group),
        ignore=ignored,
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder
