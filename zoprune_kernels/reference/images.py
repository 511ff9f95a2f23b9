"""Images one by one: a matrix product's last bits depend on its shape, and an image's result must
not depend on its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def by_image(function: Callable[..., Any], rank: int, *arguments: Any, **options: Any) -> Any:
    """``function`` of one image, whose first tensor has ``rank`` dimensions, or of each of a batch,
    which all tensors are then split along.

    It returns one tensor or a tuple of them; those of a batch are stacked.
    """
    if arguments[0].dim() == rank:
        return function(*arguments, **options)

    def of_image(b: int, value: Any) -> Any:
        return value[b] if isinstance(value, Tensor) else value

    results = [
        function(
            *(of_image(b, value) for value in arguments),
            **{name: of_image(b, value) for name, value in options.items()},
        )
        for b in range(len(arguments[0]))
    ]
    return join(results, torch.stack)


def by_segment(
    images: Iterable[tuple[int, int, int]],
    arguments: Mapping[str, Any],
    function: Callable[[int, dict[str, Any]], Any],
) -> Any:
    """``function(keep, arguments)`` of each of several packed images that keeps any tokens.

    ``images`` are (start, end, keep). Tensors have a row for each token, but for ``indices``, which
    has one for each kept token; those and an int64 result are indices, into the image for
    ``function``, into the packed array outside.
    """
    results, done = [], 0
    for start, end, keep in images:
        if keep == 0:
            continue
        kept = slice(done, done + keep)
        part = {
            name: value[kept] - start if name == "indices" else value[start:end]
            for name, value in arguments.items()
            if isinstance(value, Tensor)
        }
        result = function(keep, {**arguments, **part})
        results.append(result + start if getattr(result, "dtype", None) == torch.int64 else result)
        done += keep
    return join(results, torch.cat)


def join(images: list[Any], how: Callable[[list[Tensor]], Tensor]) -> Any:
    """The images' results, each one tensor or a tuple of them, put together by ``how``."""
    if isinstance(images[0], Tensor):
        return how(images)
    return tuple(how(list(part)) for part in zip(*images, strict=True))
