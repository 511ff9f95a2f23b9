"""Everything of transformers that is no public interface, and what its versions differ in."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ..layers import is_of

VERSION = tuple(int(n) for n in re.findall(r"\d+", transformers.__version__)[:2])
# Models take visual features that were computed before; earlier ones take embeddings only.
FEEDS_FEATURES = VERSION >= (5, 18)
FEATURES = "mm_encoder_outputs"  # the keyword for them
COUNTS_POSITIONS = VERSION < (5,)  # ``generate`` passes ``cache_position``
_PREPARE = transformers.GenerationMixin.prepare_inputs_for_generation
RENAMED_CACHE = "cache" in inspect.signature(_PREPARE).parameters  # was ``past_key_values``


def is_pretrained(model: Any) -> bool:
    return isinstance(model, transformers.PreTrainedModel)


def core_of(model: Any) -> Any:
    """The inner model, without labels and logits; Llama 4 has none and is its own."""
    return getattr(model, "model", model)


def caches(values: Iterable[Any]) -> Iterator[Any]:
    """The caches among an output's values or a call's arguments, whatever they are called."""
    for value in values:
        if isinstance(value, transformers.Cache):
            yield value


def length_of(cache: Any) -> int:
    """How many columns a cache holds."""
    return int(cache.get_seq_length())


def passes_on(model: nn.Module, name: str) -> bool:
    """Whether the forward that will run takes an argument, by name or among others."""
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def check_generates_from_embeddings(cls: Any) -> None:
    """Raise where ``generate`` can be given neither features nor embeddings."""
    prepare = inspect.signature(cls.prepare_inputs_for_generation).parameters
    if not FEEDS_FEATURES and "inputs_embeds" not in prepare:
        raise NotImplementedError(
            f"zoprune: generate: expected transformers 5.18 or later, or 4.57, for {cls.__name__}, "
            f"got {transformers.__version__}, whose generate takes no embeddings for it; a call of "
            "the model itself is pruned"
        )


def output_like(output: Any, **values: Any) -> Any:
    """An encoder's output of the same class with these values only.

    The first field of a class may have no default: that of timm's towers has none.
    """
    first = dataclasses.fields(output)[0].name
    return type(output)(**{first: None, **values})


def gather_first(module: nn.Module) -> None:
    """Let FSDP2's own hook run before all others, as if the module had been sharded last."""
    hooks: Any = module._forward_pre_hooks  # an OrderedDict
    for key in [key for key, hook in hooks.items() if is_of(hook, "torch.distributed.fsdp")]:
        hooks.move_to_end(key, last=False)


def check_feeds_features(name: str) -> None:
    """Raise where a model cannot be given features, but embeddings only."""
    if not FEEDS_FEATURES:
        raise NotImplementedError(
            f"zoprune: model: expected transformers 5.18 or later for {name}, got "
            f"{transformers.__version__}, whose language model looks tokens up itself"
        )


def unshard(*modules: nn.Module) -> None:
    """Gather what FSDP2 gathers when the modules' forward begins, the outermost first."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for module in modules:
            if isinstance(module, torch.distributed.fsdp.FSDPModule):
                module._get_fsdp_state()._lazy_init()  # else a unit within would be the outermost
                module.unshard()


@contextlib.contextmanager
def loaded(module: nn.Module) -> Iterator[None]:
    """Bring a module's own parameters to where it computes, as accelerate does for its forward."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def window_index(visual: Any, grid: Tensor) -> Tensor:
    """Which token [T] each row of Qwen2.5-VL's projector is."""
    if hasattr(visual, "get_window_index"):  # transformers 4
        return visual.get_window_index(grid)[0]
    from transformers.vision_utils import get_vision_window_index

    sizes = (visual.spatial_merge_size, visual.window_size, visual.patch_size)
    return get_vision_window_index(grid, *sizes)[0]


def patches_of(size: Any, pinpoints: Any, side: int) -> int:
    """How many views of an image of this size LLaVA-NeXT's vision tower sees."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return image_size_to_num_patches(size, pinpoints, side)


def crop_grid(size: Any, pinpoints: Any, side: int) -> tuple[int, int]:
    """(rows, columns) of LLaVA-NeXT's crops."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    return get_anyres_image_grid_shape(size, pinpoints, side)


def without_padding(grid: Tensor, size: Any) -> Tensor:
    """LLaVA-NeXT's crops [1, rows, columns] without what only pads the image."""
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    return unpad_image(grid, size)
