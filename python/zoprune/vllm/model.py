"""The worker: the projector's outputs carry a score, and the kept rows are picked last.

The score travels in trailing columns of the features (``columns``), so whatever lies between the
projector and the end of the encoder (window orders, splits, data-parallel gathering, CUDA graphs)
takes it along.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.distributed.parallel_state import get_tp_group
from vllm.model_executor.models.utils import StageMissingLayer
from vllm.multimodal import MULTIMODAL_REGISTRY

from . import refusals
from .columns import COLUMNS, from_columns, to_columns
from .folding import fingerprint, folded
from .layout import Layout
from .metrics import Counters
from .options import KEEP, Options, decode_keep
from .picking import Tokens, pick
from .processor import attach
from .scoring import Scorer, WeightTap

logger = logging.getLogger("vllm.zoprune")


def pruned(layout: Layout) -> Callable[[type], type]:
    """Class decorator for a ``PrunedModel`` in front of a class of vLLM."""

    def decorate(model: Any) -> Any:
        model.layout = layout
        attach(model, model.__mro__[model.__mro__.index(PrunedModel) + 1], layout)
        return model

    return decorate


@dataclass
class Pruning:
    """A model's state."""

    options: Options
    compared: int  # channels that tokens are compared by, the first ones
    width: int  # all channels of the encoder's output
    projector: nn.Module | None  # None on a stage, or in a mode, without it
    scorer: Scorer | None = None
    scoring: bool = False  # whether the projector's outputs carry scores
    weights: dict[str, Tensor] = field(default_factory=dict)  # the projector's, by role
    counters: Counters = field(default_factory=Counters)


class PrunedModel:
    """In front of a model class of vLLM, which encodes the images as ever."""

    layout: ClassVar[Layout]
    config: Any
    pruning: Pruning

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        options = Options.of(vllm_config.model_config.hf_config)
        if options is None:
            raise RuntimeError(f"zoprune: expected {KEEP} in the model's configuration")
        refusals.check(vllm_config, self.layout)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.vllm_config = vllm_config
        self.pruning = Pruning(options, *self.widths(), _submodule(self, self.layout.projector))
        projector = self.pruning.projector
        if self.layout.layers is not None and projector is not None:
            projector.forward = functools.partial(self._project, projector.forward)

    # -- what an architecture may say of its own --------------------------------------------------

    def widths(self) -> tuple[int, int]:
        """Channels that tokens are compared by, and all channels of the encoder's output."""
        width = self.config.get_text_config().hidden_size
        return width, width

    def score_inputs(self, *args: Any) -> Tensor:
        """The projector's arguments -> its inputs [..., d], a row for each output."""
        return args[0]

    def tokens(self, item: Tensor, index: int, kwargs: dict[str, Any]) -> Tokens:
        """An image as the encoder returned it, its scores in the columns behind."""
        features, scores = self.split(item)
        return Tokens(features, scores, self.layout.units(self.config, len(features)))

    def finish(
        self, kept: list[Tensor], picks: list[Tensor], kwargs: dict[str, Any]
    ) -> list[Tensor]:
        """The kept features of each image, with what else must travel with them."""
        return kept

    def part(self, kwargs: dict[str, Any], indices: range) -> dict[str, Any]:
        """The inputs of some of the images."""
        return {name: value[indices.start : indices.stop] for name, value in kwargs.items()}

    # -- encoding ---------------------------------------------------------------------------------

    def embed_multimodal(self, **kwargs: Any) -> Any:
        if kwargs.get(KEEP) is None:  # videos, and images given as embeddings
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        count = len(kwargs[KEEP])
        outputs: list[Tensor] = []
        for start in range(0, count, self.most_images):
            indices = range(start, min(start + self.most_images, count))
            part = kwargs if len(indices) == count else self.part(kwargs, indices)
            inputs = {name: value for name, value in part.items() if name != KEEP}
            with self.scored():
                images = super().embed_multimodal(**inputs)  # type: ignore[misc]
            outputs += self.prune(list(images), part)
        return tuple(outputs)

    @functools.cached_property
    def most_images(self) -> int:
        """Images in one run of the encoder: as many as the profiler ran, and as without pruning."""
        from vllm.multimodal.encoder_budget import MultiModalBudget

        budget = MultiModalBudget(self.vllm_config, MULTIMODAL_REGISTRY, enable_cache=False)
        return max(1, budget.mm_max_items_per_batch.get("image", 1))

    @contextlib.contextmanager
    def scored(self) -> Iterator[None]:
        """Within the block the projector's outputs carry scores."""
        before, self.pruning.scoring = self.pruning.scoring, self.layout.layers is not None
        try:
            yield
        finally:
            self.pruning.scoring = before

    def prune(self, images: list[Tensor], kwargs: dict[str, Any]) -> list[Tensor]:
        """The kept rows of each image; kwargs as the encoder got them, the budgets among them."""
        keeps = [decode_keep(code) for code in kwargs[KEEP].flatten().tolist()]
        if len(keeps) != len(images):
            raise RuntimeError(f"zoprune: expected {len(keeps)} images, got {len(images)}")
        start = time.perf_counter()
        tokens = [self.tokens(image, i, kwargs) for i, image in enumerate(images)]
        picks = self._agree(pick(tokens, keeps, self.pruning.compared, self.pruning.options))
        kept = [t.features[rows] for t, rows in zip(tokens, picks, strict=True)]
        self.pruning.counters.add(
            images=len(images),
            seen=sum(len(t.scores) for t in tokens),
            kept=sum(len(rows) for rows in picks),
            seconds=time.perf_counter() - start,
        )
        return self.finish(kept, picks, kwargs)

    def split(self, item: Tensor) -> tuple[Tensor, Tensor]:
        """Features [n, C] and scores [n] of an image whose features carry scores."""
        if self.layout.layers is None:
            return item, torch.ones(item.shape[:-1], dtype=torch.float32, device=item.device)
        at = self.pruning.compared
        columns = item[..., at : at + COLUMNS]
        features = item[..., :at]
        if item.shape[-1] > at + COLUMNS:
            features = torch.cat([features, item[..., at + COLUMNS :]], dim=-1)
        return features, from_columns(columns, torch.float32)

    def _project(self, stock: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The projector's forward."""
        features = stock(*args, **kwargs)
        if not self.pruning.scoring:
            return features
        start = time.perf_counter()
        if self.pruning.scorer is None:
            self._prepare(self._live_weights())
        assert self.pruning.scorer is not None
        scores = self.pruning.scorer(self.score_inputs(*args)).view(features.shape[:-1])
        self.pruning.counters.add(seconds=time.perf_counter() - start)
        return torch.cat([features, to_columns(scores, features.dtype)], dim=-1)

    def _agree(self, picks: list[Tensor]) -> list[Tensor]:
        """The picks of rank 0, on every tensor-parallel rank: they must never differ."""
        group = get_tp_group()
        if group.world_size == 1:
            return picks
        return list(group.broadcast(torch.cat(picks), src=0).split([len(p) for p in picks]))

    # -- weights ----------------------------------------------------------------------------------

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        layers = self.layout.layers
        if self.pruning.projector is None:  # a later pipeline stage, a server for text only
            return super().load_weights(weights)  # type: ignore[misc]
        if layers is None:
            loaded = super().load_weights(weights)  # type: ignore[misc]
            self._announce("diversity only, the projector is linear")
            return loaded
        tap = WeightTap(self.layout.projector, layers)
        loaded = super().load_weights(tap.listen(weights))  # type: ignore[misc]
        if tap.weights:  # an update of other weights brings none of the projector's
            self._prepare(self.pruning.weights | tap.weights)
        return loaded

    def _live_weights(self) -> dict[str, Tensor]:
        """The projector's own parameters, where they did not pass by (random weights)."""
        assert self.layout.layers is not None and self.pruning.projector is not None
        tap = WeightTap(self.layout.projector, self.layout.layers)
        named = (
            (f"{self.layout.projector}.{n}", p)
            for n, p in self.pruning.projector.named_parameters()
        )
        for _ in tap.listen(named):
            pass
        whole = all(w.numel() for w in tap.weights.values()) and get_tp_group().world_size == 1
        if not whole:
            raise ValueError(
                "zoprune: --load-format: expected one that passes the weights through load_weights "
                "(auto, safetensors, ...), got one that does not, with weights sharded or packed"
            )
        return tap.weights

    def _prepare(self, weights: dict[str, Tensor]) -> None:
        assert self.layout.layers is not None and self.pruning.projector is not None
        start = time.perf_counter()
        device, dtype = self.vllm_config.device_config.device, self.vllm_config.model_config.dtype
        self.pruning.weights = {name: w.to(device, dtype) for name, w in weights.items()}
        layers, options = self.layout.layers, self.pruning.options
        norm = None if layers.norm is None else self.pruning.projector.get_submodule(layers.norm)
        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        with torch.no_grad():
            scorer = Scorer(self.pruning.weights, layers, self.config, options, epsilon)
            key = fingerprint(
                self.pruning.weights, options.estimator, options.through_norm, layers.unfolded
            )
            metric, how = folded(key, torch.device(device), scorer.fold)
            scorer.use(metric)
        self.pruning.scorer = scorer
        self._announce(f"{options.estimator}, metric {how} in {time.perf_counter() - start:.1f} s")

    def _announce(self, scoring: str) -> None:
        keep = self.pruning.options.keep
        logger.info(
            "zoprune: %s keeps %s visual tokens of each image (method %s, max_similarity %g, %s)",
            type(self).__name__,
            f"{keep:.0%} of the" if isinstance(keep, float) else keep,
            self.pruning.options.method,
            self.pruning.options.max_similarity,
            scoring,
        )


class EncoderGraphs:
    """In front of ``PrunedModel`` where vLLM captures the encoder in CUDA graphs."""

    def get_encoder_cudagraph_config(self: Any) -> Any:
        config = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        extra = 0 if self.layout.layers is None else COLUMNS
        return dataclasses.replace(config, out_hidden_size=self.pruning.width + extra)

    def encoder_cudagraph_forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        with self.scored():
            return super().encoder_cudagraph_forward(*args, **kwargs)  # type: ignore[misc]

    def encoder_eager_forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        with self.scored():
            return super().encoder_eager_forward(*args, **kwargs)  # type: ignore[misc]

    def select_encoder_cudagraph_items(
        self: Any, mm_kwargs: dict[str, Any], indices: list[int]
    ) -> dict[str, Any]:
        part = super().select_encoder_cudagraph_items(mm_kwargs, indices)  # type: ignore[misc]
        if mm_kwargs.get(KEEP) is not None:
            part[KEEP] = mm_kwargs[KEEP].flatten()[indices]
        return part

    def postprocess_encoder_output(
        self: Any,
        outputs: dict[str, Tensor],
        indices: list[int],
        per_item_out_tokens: Sequence[int],
        dest: Any,
        clone: bool = False,
        batch_mm_kwargs: dict[str, Any] | None = None,
    ) -> None:
        sizes = [per_item_out_tokens[i] for i in indices]
        items = list(outputs["default"][: sum(sizes)].split(sizes))
        if batch_mm_kwargs is not None and batch_mm_kwargs.get(KEEP) is not None:
            results = self.prune(items, batch_mm_kwargs)
        else:  # videos
            results = [self.split(item)[0].clone() for item in items]
        for index, result in zip(indices, results, strict=True):
            dest[index] = result


def _submodule(model: Any, path: str) -> nn.Module | None:
    """None on a pipeline stage, or in a mode, without the projector."""
    module = model
    for name in path.split("."):
        module = getattr(module, name, None)
        if module is None or isinstance(module, StageMissingLayer):
            return None
    return module
