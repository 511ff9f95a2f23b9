"""What pruning costs and saves on this machine, measured on random weights of a model's shapes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..hf import compat
from ..hf.families import family_of
from ..projector import Estimator
from ..selection import Rule, choose

DTYPE = torch.float32
REPEATS = 3
LONG = 0.5  # seconds


def pruning(model: Any, tokens: int, keep: int) -> tuple[float, float]:
    """Seconds to score an image's tokens in closed form, and to select from them."""
    family = family_of(model)
    modules = map(_materialised, family.modules(compat.core_of(model)))
    projector = family.describe(*modules)
    x = torch.randn(tokens, projector.width, dtype=DTYPE, device=_device())
    width = model.get_submodule(family.language_model).config.hidden_size
    keys = torch.randn(tokens, width, dtype=DTYPE, device=_device())
    units = torch.zeros(tokens, dtype=torch.long)
    scores = projector.score(x, Estimator())  # folds the metric
    score = 0.0 if projector.is_linear else _seconds(lambda: projector.score(x, Estimator()))
    return score, _seconds(lambda: choose(scores, keys, units, keep, Rule()))


@torch.no_grad()
def prefill(model: Any, tokens: int) -> float:
    """Seconds of a forward pass of the language model: that of one layer times their number."""
    language_model = model.get_submodule(family_of(model).language_model)
    config = copy.deepcopy(language_model.config)
    layers, config.num_hidden_layers = config.num_hidden_layers, 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    with torch.device("meta"):
        short = type(language_model)(config)
    short.embed_tokens = None  # embeddings are given
    short = _materialised(short).eval()
    embeds = torch.randn(1, tokens, config.hidden_size, dtype=DTYPE, device=_device())
    return layers * _seconds(lambda: short(inputs_embeds=embeds, use_cache=False))


def setting(model: Any) -> str:
    """What the times were measured on."""
    layers = model.get_submodule(family_of(model).language_model).config.num_hidden_layers
    where = "1 GPU" if _device() == "cuda" else f"{torch.get_num_threads()} threads"
    return f"one layer times {layers}, batch 1, float32, {where}, torch {torch.__version__}"


def _materialised(module: nn.Module) -> Any:
    """A copy of a module on the meta device with small random weights."""
    module = copy.deepcopy(module).to_empty(device=_device()).to(DTYPE)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.02)
    return module


def _seconds(call: Callable[[], Tensor]) -> float:
    """The first run if it took long, else the median of a few that follow it."""
    first = _once(call)
    return first if first > LONG else sorted(_once(call) for _ in range(REPEATS))[REPEATS // 2]


def _once(call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    call()
    if _device() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
