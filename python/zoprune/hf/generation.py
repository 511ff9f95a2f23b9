"""``generate`` of a pruned model: it shortens the prompt once and calls the original.

All that follows, from beam search to static caches, sees an ordinary shorter prompt.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..calls import attach
from . import compat
from .conversation import Turn, note, resume, take
from .hooks import Method, generating
from .settings import pruning_of
from .shortening import shorten

# what stopping criteria and logits processors call a number of columns
COUNTS = ("max_length", "min_length", "prompt_length_to_skip", "begin_index", "regulation_start")


def methods(model: nn.Module) -> dict[str, Method]:
    """What ``prune`` puts on a model: ``generate``, and what older versions need beside it."""
    functions: dict[str, Callable] = {"generate": generate}
    functions["_expand_inputs_for_generation"] = expand_for_beams
    if not compat.FEEDS_FEATURES:
        functions["prepare_inputs_for_generation"] = prepare_inputs_for_generation
        functions["_get_candidate_generator"] = draft_from_text
    return {name: Method(model, function, name) for name, function in functions.items()}


def generate(model: Any, original: Callable, *args: Any, **kwargs: Any) -> Any:
    """``generate`` on the shortened prompt; the output has the full one."""
    pruning = pruning_of(model)
    names = generate_names(model.__class__)
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    if pruning is None or len(arguments) < len(args) + len(kwargs):
        return original(*args, **kwargs)
    if compat.RENAMED_CACHE and "past_key_values" in arguments:
        arguments.setdefault("cache", arguments.pop("past_key_values"))
    arguments = pruning.family.by_present_names(arguments)
    cache, turn = take(arguments)
    has_images = any(arguments.get(n[0]) is not None for n in pruning.family.inputs.values())
    if turn is None and not has_images:
        return original(*args, **kwargs)
    compat.check_generates_from_embeddings(model.__class__)
    report = None
    token = generating.set(True)
    try:
        prompt = arguments.pop("inputs", None)
        prompt = arguments.pop("input_ids", None) if prompt is None else prompt
        with torch.no_grad():
            if prompt is not None:
                arguments["input_ids"] = prompt
                _infer_mask(model, arguments)
            if turn is None:
                core = compat.core_of(model)
                compat.unshard(model, core)
                arguments, short, report = shorten(core, pruning, arguments, True)
            else:
                arguments, short = resume(model, cache, turn, arguments, has_images)
        _shift_lengths(model, arguments, short.keep.shape[1] - short.columns.shape[1])
        layout = pruning.positions if turn is None else turn.layout
        done = Turn.of(short, arguments, layout)
        if compat.COUNTS_POSITIONS and arguments.get("position_ids") is not None:
            arguments["position_ids"] = batch_first(arguments["position_ids"])
        output = original(**arguments)
        note(list(arguments.values()), done)
        if not isinstance(output, Tensor):
            note(output, done)
        if done.positions is not None:  # for a loop over ``forward`` that goes on from the cache
            core, mask = compat.core_of(model), arguments.get("attention_mask")
            pruning.family.settle(core, done.positions, mask)
        turn = None
    finally:
        generating.reset(token)
        if turn is not None:  # it failed: the cache is as before
            note([cache], turn)
    if prompt is not None:
        output = _with_full_prompt(output, prompt, short.columns.shape[1])
    attach(output, report)
    return output


@functools.cache
def generate_names(cls: Any) -> list[str]:
    """The positional arguments of ``generate``."""
    return list(inspect.signature(cls.generate).parameters)[1:]


def _infer_mask(model: Any, arguments: dict[str, Any]) -> None:
    """The mask that ``generate`` makes of the prompt's padding where it is given none."""
    if arguments.get("attention_mask") is not None:
        return
    configs = [arguments.get("generation_config"), model.generation_config]
    places = [arguments, *[vars(config) for config in configs if config is not None]]
    pad, eos = (
        next((place[name] for place in places if place.get(name) is not None), None)
        for name in ("pad_token_id", "eos_token_id")
    )
    ends = [] if eos is None else torch.as_tensor(eos).flatten().tolist()
    if pad is not None and int(pad) not in ends:
        arguments["attention_mask"] = (arguments["input_ids"] != int(pad)).long()


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
    for name in ("stopping_criteria", "logits_processor"):
        given = arguments.get(name)
        if given is not None:
            arguments[name] = type(given)([_shifted(part, removed) for part in given])


def _shifted(part: Any, removed: int) -> Any:
    """A copy of what counts a prompt's tokens, where it is transformers' own."""
    if not type(part).__module__.startswith("transformers."):
        return part
    places = {n: v - removed for n, v in vars(part).items() if n in COUNTS and isinstance(v, int)}
    part = copy.copy(part)
    vars(part).update(places)
    return part


def _with_full_prompt(output: Any, prompt: Tensor, length: int) -> Any:
    """Replace the shortened prompt in the generated sequences by the full one."""
    short = output if isinstance(output, Tensor) else output.sequences
    repeats = short.shape[0] // prompt.shape[0]
    full = torch.cat([prompt.repeat_interleave(repeats, 0).to(short), short[:, length:]], dim=1)
    if isinstance(output, Tensor):
        return full
    output.sequences = full
    return output


def expand_for_beams(
    model: Any,
    original: Callable,
    expand_size: int = 1,
    is_encoder_decoder: bool = False,
    input_ids: Tensor | None = None,
    **arguments: Any,
) -> tuple[Tensor | None, dict[str, Any]]:
    """Repeat the prompts' rows, each with the features of its own images."""
    expand = functools.partial(original, expand_size, is_encoder_decoder, input_ids)
    if not generating.get() or expand_size == 1:
        return expand(**arguments)
    if not compat.FEEDS_FEATURES:
        return expand_embeddings(expand_size, input_ids, arguments)
    outputs = (arguments.get(compat.FEATURES) or {}).values()
    joined = [output for output in outputs if getattr(output, "runs", None)]
    for output in joined:
        output.pooler_output = list(output.pooler_output[0].split(output.runs))
    result = expand(**arguments)
    for output in joined:
        output.pooler_output = torch.cat(output.pooler_output)[None]
    return result


# -- versions whose models take features as embeddings only ----------------------------------------


def prepare_inputs_for_generation(
    model: Any, original: Callable, input_ids: Tensor, *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Extend given positions and embeddings: the original uses them as they are, whatever was
    generated or drafted since.
    """
    embeds, positions = kwargs.get("inputs_embeds"), kwargs.get("position_ids")
    if not generating.get() or pruning_of(model) is None:
        return original(input_ids, *args, **kwargs)
    steps = kwargs.get("cache_position")  # transformers 4
    first = kwargs.get("is_first_iteration", False) if steps is None else bool(steps[0] == 0)
    if embeds is not None and first and input_ids.shape[1] > embeds.shape[1]:
        drafted = model.get_input_embeddings()(input_ids[:, embeds.shape[1] :])
        drafted = torch.nn.functional.pad(drafted, (0, embeds.shape[-1] - drafted.shape[-1]))
        kwargs["inputs_embeds"] = torch.cat([embeds, drafted], dim=1)
        if kwargs.get("next_sequence_length") is not None:
            kwargs["next_sequence_length"] += drafted.shape[1]
    if positions is None or steps is None:
        inputs = original(input_ids, *args, **kwargs)
        if not first:  # it would grow with the answer and compile a decoding step twice
            inputs.pop("mm_token_type_ids", None)
        return inputs
    more = torch.arange(1, input_ids.shape[1] - positions.shape[-1] + 1).to(positions)
    positions = torch.cat([positions, positions[..., -1:] + more], dim=-1)
    kwargs["position_ids"] = positions if positions.dim() == 2 else positions[:, 0]
    inputs = original(input_ids, *args, **kwargs)
    embeds = inputs.get("inputs_embeds")
    current = inputs["input_ids"] if embeds is None else embeds
    # contiguous: strides that grow with the answer would compile a decoding step twice
    inputs["position_ids"] = batch_first(positions[..., -current.shape[1] :]).contiguous()
    return inputs


def draft_from_text(model: Any, original: Callable, **arguments: Any) -> Any:
    """An assistant gets the prompt without this model's embeddings, whose width may not be its own.

    What it drafts is checked by this model, so the answer stays the same.
    """
    given = arguments["model_kwargs"]
    embeds = given.get("inputs_embeds")
    if embeds is not None and arguments["input_ids"].shape[1] == embeds.shape[1]:
        dropped = ("inputs_embeds", "position_ids")
        arguments["model_kwargs"] = {k: v for k, v in given.items() if k not in dropped}
    return original(**arguments)


def expand_embeddings(
    times: int, input_ids: Tensor | None, arguments: dict[str, Any]
) -> tuple[Tensor | None, dict[str, Any]]:
    """Every tensor has a batch here; the original of some models looks for images."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            multimodal = name == "position_ids" and value.dim() == 3
            dim = 1 if multimodal and not compat.COUNTS_POSITIONS else 0
            arguments[name] = value.repeat_interleave(times, dim=dim)
    if input_ids is not None:
        input_ids = input_ids.repeat_interleave(times, dim=0)
    return input_ids, arguments


def batch_first(position_ids: Tensor) -> Tensor:
    """Swap [3, B, L] and [B, 3, L], as beam search repeats the first dimension; [B, L] stays."""
    return position_ids if position_ids.dim() == 2 else position_ids.transpose(0, 1)
