"""The front end: an image's placeholders are cut to its budget, and the budget goes along.

One mixin for every architecture; ``attach`` gives a model class a processor factory that puts it in
front of the class of vLLM's own processor.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageProcessorItems
from vllm.multimodal.processing import PromptUpdateDetails

from .layout import Layout
from .options import KEEP, Options, budget, encode_keep, without_options

_dummy = ContextVar("zoprune_dummy", default=False)  # the prompts that vLLM profiles with


def attach(model: Any, stock: Any, layout: Layout) -> None:
    """Give ``model`` the processor of its base ``stock``, with pruning in front."""
    factories = stock._processor_factory

    def build(info: Any, dummy_inputs: Any) -> Any:
        stock = factories.processor(info, dummy_inputs)
        if Options.of(info.ctx.model_config.hf_config) is None:
            return stock
        processor: Any = object.__new__(_pruned(stock.__class__))
        vars(processor).update(vars(stock))
        processor.start_pruning(layout)
        return processor

    model._processor_factory = dataclasses.replace(factories, processor=build)


@functools.cache
def _pruned(base: Any) -> Any:
    return type(base.__name__, (PrunedProcessor, base), {})


class PrunedProcessor:
    """In front of a ``BaseMultiModalProcessor``; images given as embeddings stay as they are."""

    info: Any
    dummy_inputs: Any
    layout: Layout
    options: Options
    pruning: bool

    def start_pruning(self, layout: Layout) -> None:
        options = Options.of(self.info.ctx.model_config.hf_config)
        assert options is not None
        self.layout, self.options, self.pruning = layout, options, True
        stock = self.info.get_mm_max_tokens_per_item
        self.info.get_mm_max_tokens_per_item = functools.partial(self._whole_images, stock)

    def get_dummy_mm_inputs(self, *args: Any, **kwargs: Any) -> Any:
        token = _dummy.set(True)
        try:
            return super().get_dummy_mm_inputs(*args, **kwargs)  # type: ignore[misc]
        finally:
            _dummy.reset(token)

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        result = super().apply(inputs, timing_ctx)  # type: ignore[misc]
        if self.layout.mrope and not _dummy.get() and self._pixels(inputs.mm_data_items):
            last = max(r.offset + r.length for r in result["mm_placeholders"]["image"])
            if last >= len(result["prompt_token_ids"]):
                raise ValueError("zoprune: prompt: expected text after the image, got its end")
        return result

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        result = super()._apply_hf_processor_main(  # type: ignore[misc]
            mm_items, without_options(hf_kwargs)
        )
        images = self._pixels(mm_items)
        if images:
            keep = encode_keep(self.options.of_request(hf_kwargs))
            result[KEEP] = torch.full((len(images),), keep, dtype=torch.float64)
            for name, value in self.layout.fields(self.info).items():
                result[name] = torch.full((len(images),), value)
        return result

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        fields = super()._get_mm_fields_config(  # type: ignore[misc]
            hf_inputs, without_options(hf_processor_mm_kwargs)
        )
        ours = [name for name in (KEEP, *self.layout.fields(self.info)) if name in hf_inputs]
        batched = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return {**fields, **dict.fromkeys(ours, batched)}

    def _get_mm_hashes(self, inputs: Any) -> Any:
        kwargs = inputs.hf_processor_mm_kwargs
        if self._pixels(inputs.mm_data_items):
            identity = self.options.identity(self.options.of_request(kwargs))
            kwargs = {**without_options(kwargs), "zoprune": identity}
        else:
            kwargs = without_options(kwargs)
        inputs = dataclasses.replace(inputs, hf_processor_mm_kwargs=kwargs)
        return super()._get_mm_hashes(inputs)  # type: ignore[misc]

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> list[Any]:
        updates = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items, without_options(hf_processor_mm_kwargs), out_mm_kwargs
        )
        images = self._pixels(mm_items)
        if not images:
            return list(updates)
        keep = self.options.of_request(hf_processor_mm_kwargs)
        return [
            self._cut_update(update, images, keep) if update.modality == "image" else update
            for update in updates
        ]

    def _cut_update(self, update: Any, images: Any, keep: int | float) -> Any:
        name = "replacement" if hasattr(update, "replacement") else "insertion"

        def content(index: int) -> Any:
            return self._cut(update.resolve(index).content, images, index, keep)

        return dataclasses.replace(update, **{name: content})

    def _cut(self, details: Any, images: Any, index: int, keep: int | float) -> Any:
        """The same tokens with fewer placeholders; which of them stand for which tokens is open."""
        details = self.layout.placeholders(self.info, details)
        full = details.full
        embeds = torch.ones(len(full), dtype=torch.bool)
        if details.is_embed is not None:
            embeds = details.is_embed(full)
        slots = embeds.nonzero()[:, 0].tolist()
        structure = self.layout.structure(self.info, images, index)
        dropped: set[int] = set()
        start = 0
        for size in self.layout.units(self.info.get_hf_config(), len(slots) - structure):
            dropped.update(slots[start + budget(keep, size) : start + size])
            start += size
        tokens = [token for i, token in enumerate(full) if i not in dropped]
        return PromptUpdateDetails(full=tokens, is_embed=details.is_embed)

    def _pixels(self, mm_items: Any) -> Any:
        """The images to prune; None where there are none, or they are given as embeddings."""
        images = mm_items.get("image") if self.pruning else None
        return images if isinstance(images, ImageProcessorItems) and len(images) else None

    def _whole_images(
        self, stock: Callable, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Tokens per item for the encoder's budget: the vision tower sees whole images.

        So as many images are profiled, and run at once, as without pruning.
        """
        counts = stock(seq_len=seq_len, mm_counts=mm_counts)
        if counts is not None:
            return counts
        self.pruning = False
        try:
            placeholders = self.get_dummy_mm_inputs(mm_counts)["mm_placeholders"]
        finally:
            self.pruning = True
        return {m: sum(item.get_num_embeds() for item in p) for m, p in placeholders.items()}
