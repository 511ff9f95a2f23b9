"""The class of a pruned model: a subclass of its own class that shortens prompts.

``forward`` and ``generate`` drop visual tokens and then call the original. All that follows, from
beam search to static caches, sees an ordinary shorter prompt, given as embeddings.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .conversation import remember, resume, turn_of
from .families.base import accepts_encoder_outputs
from .settings import pruning_of
from .shortening import shorten


@functools.cache
def pruned_class(base: Any) -> Any:
    """A subclass of a model class that shortens prompts. It keeps the name: configs store it."""
    forward_names = list(inspect.signature(base.forward).parameters)[1:]
    generate_names = list(inspect.signature(base.generate).parameters)[1:]

    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = {**dict(zip(forward_names, args, strict=False)), **kwargs}
        if _has_images(self, arguments):
            arguments, _ = shorten(self, arguments)
            if "inputs_embeds" in arguments:
                del arguments["input_ids"]
        return base.forward(self, **arguments)

    @functools.wraps(base.generate)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = {**dict(zip(generate_names, args, strict=False)), **kwargs}
        turn, has_images = turn_of(arguments), _has_images(self, arguments)
        if pruning_of(self) is None or (turn is None and not has_images):
            return base.generate(self, **arguments)
        prompt = arguments.pop("inputs", None)
        prompt = arguments.pop("input_ids") if prompt is None else prompt
        with torch.no_grad():
            arguments["input_ids"] = prompt
            if turn is None:
                arguments, kept = shorten(self, arguments)
            else:
                arguments, kept = resume(self, turn, arguments, has_images)
        length = arguments["input_ids"].shape[1]
        _shift_lengths(self, arguments, prompt.shape[1] - length)
        if "inputs_embeds" in arguments and arguments["position_ids"] is not None:
            arguments["position_ids"] = batch_first(arguments["position_ids"])
        output = base.generate(self, **arguments)
        cache = getattr(output, "past_key_values", arguments.get("past_key_values"))
        if cache is not None:
            remember(cache, kept, arguments)
        return _with_full_prompt(output, prompt, length)

    def __reduce_ex__(self: Any, protocol: int) -> tuple:
        return _unpickle, (base,), self.__dict__

    members = {"forward": forward, "generate": generate, "__reduce_ex__": __reduce_ex__}
    if not accepts_encoder_outputs(base):
        members["prepare_inputs_for_generation"] = _prepares_inputs(base)
        members["_expand_inputs_for_generation"] = staticmethod(_expand_for_beams)
        members["_get_candidate_generator"] = _drafts_from_text(base)
    members |= {"__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), members)


def _unpickle(base: Any) -> nn.Module:
    cls = pruned_class(base)
    return cls.__new__(cls)


def _has_images(model: Any, arguments: dict[str, Any]) -> bool:
    pruning = pruning_of(model)  # None when a compiled forward outlives ``restore``
    return pruning is not None and any(
        arguments.get(names[0]) is not None for names in pruning.family.inputs.values()
    )


def _shift_lengths(model: Any, arguments: dict[str, Any], removed: int) -> None:
    """Lengths that count the prompt are given for the full one."""
    config = arguments.get("generation_config") or model.generation_config
    unset = type(config)()
    for name in ("max_length", "min_length"):
        new = name.split("_")[0] + "_new_tokens"
        value = arguments.get(name)
        replaced = arguments.get(new) is not None or getattr(config, new) is not None
        if value is None and not replaced and getattr(config, name) != getattr(unset, name):
            value = getattr(config, name)
        if value is not None:
            arguments[name] = max(value - removed, 0)


def _with_full_prompt(output: Any, prompt: Tensor, length: int) -> Any:
    """Replace the shortened prompt in the generated sequences by the full one."""
    short = output if isinstance(output, Tensor) else output.sequences
    repeats = short.shape[0] // prompt.shape[0]
    full = torch.cat([prompt.repeat_interleave(repeats, 0).to(short), short[:, length:]], dim=1)
    if isinstance(output, Tensor):
        return full
    output.sequences = full
    return output


# -- models that take features as embeddings only (transformers 4) ---------------------------------


def _prepares_inputs(base: Any) -> Callable:
    """``prepare_inputs_for_generation`` that extends given positions and embeddings.

    The original uses them as they are, whatever was generated or drafted since.
    """

    @functools.wraps(base.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(
        self: Any, input_ids: Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        embeds, positions = kwargs.get("inputs_embeds"), kwargs.get("position_ids")
        shortened = embeds is not None or turn_of(kwargs) is not None
        if not shortened or pruning_of(self) is None:
            return base.prepare_inputs_for_generation(self, input_ids, *args, **kwargs)
        first = kwargs["cache_position"][0] == 0
        if embeds is not None and first and input_ids.shape[1] > embeds.shape[1]:
            drafted = self.get_input_embeddings()(input_ids[:, embeds.shape[1] :])
            drafted = torch.nn.functional.pad(drafted, (0, embeds.shape[-1] - drafted.shape[-1]))
            kwargs["inputs_embeds"] = torch.cat([embeds, drafted], dim=1)
        if positions is None:
            return base.prepare_inputs_for_generation(self, input_ids, *args, **kwargs)
        steps = torch.arange(1, input_ids.shape[1] - positions.shape[-1] + 1).to(positions)
        positions = torch.cat([positions, positions[..., -1:] + steps], dim=-1)
        kwargs["position_ids"] = positions if positions.dim() == 2 else positions[:, 0]
        inputs = base.prepare_inputs_for_generation(self, input_ids, *args, **kwargs)
        embeds = inputs.get("inputs_embeds")
        current = inputs["input_ids"] if embeds is None else embeds
        # contiguous: strides that grow with the answer would compile a decoding step twice
        inputs["position_ids"] = batch_first(positions[..., -current.shape[1] :]).contiguous()
        return inputs

    return prepare_inputs_for_generation


def _drafts_from_text(base: Any) -> Callable:
    """An assistant gets the prompt without this model's embeddings, whose width may not be its own.

    What it drafts is checked by this model, so the answer stays the same.
    """

    @functools.wraps(base._get_candidate_generator)
    def _get_candidate_generator(self: Any, **arguments: Any) -> Any:
        given = arguments["model_kwargs"]
        embeds = given.get("inputs_embeds")
        if embeds is not None and arguments["input_ids"].shape[1] == embeds.shape[1]:
            dropped = ("inputs_embeds", "position_ids")
            arguments["model_kwargs"] = {k: v for k, v in given.items() if k not in dropped}
        return base._get_candidate_generator(self, **arguments)

    return _get_candidate_generator


def _expand_for_beams(**arguments: Any) -> tuple[Tensor, dict[str, Any]]:
    """Every tensor has a batch here; the original of some models looks for images."""
    from transformers import GenerationMixin

    return GenerationMixin._expand_inputs_for_generation(**arguments)


def batch_first(position_ids: Tensor) -> Tensor:
    """Swap [3, B, L] and [B, 3, L], as beam search repeats the first dimension; [B, L] stays."""
    return position_ids if position_ids.dim() == 2 else position_ids.transpose(0, 1)
