"""Times on a GPU: replays of CUDA graphs whose inputs are too many for the L2 cache."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP_SECONDS = 0.05
SAMPLE_SECONDS = 0.3
SAMPLES = 5, 100  # at least, at most
EAGER_CALLS = 5, 50


def copies_beyond_cache(bytes_of_one: int) -> int:
    """How many copies of a call's inputs make three times the L2 cache."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return max(1, math.ceil(3 * cache / bytes_of_one))


def capture(calls: Sequence[Callable[[], Any]]) -> tuple[torch.cuda.CUDAGraph, list[Any]]:
    """One graph of all calls in turn, each called once before; and their outputs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [call() for call in calls]
    return graph, outputs


def seconds_per_call(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Samples of the time of one call: a replay of all of them, divided by their number."""
    graph, outputs = capture(calls)
    samples = replays(graph)
    del outputs
    return [sample / len(calls) for sample in samples]


def can_be_captured(call: Callable[[], Any]) -> bool:
    """Whether a CUDA graph may hold a call: none that reads the GPU's data or copies to it."""
    call()  # an error of its own is none of capturing
    stream = torch.cuda.current_stream()
    try:
        capture([call])
    except RuntimeError:
        return False
    finally:  # a capture that fails may leave its own stream behind
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize()
    return True


def eager(calls: Sequence[Callable[[], Any]]) -> dict[str, float]:
    """Without a graph: ``host`` seconds until a call returns, ``whole`` until its result is there.

    Medians of single calls, taken in turns, the GPU being idle at each one's start.
    """
    calls[0]()
    host, whole = [], []
    least, most = EAGER_CALLS
    until = time.perf_counter() + SAMPLE_SECONDS
    for turn in range(most):
        if turn >= least and time.perf_counter() > until:
            break
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        start = time.perf_counter()
        output = calls[turn % len(calls)]()
        host.append(time.perf_counter() - start)
        end.record()
        torch.cuda.synchronize()
        whole.append(begin.elapsed_time(end) / 1e3)
        del output
    return {"host": statistics.median(host), "whole": statistics.median(whole)}


def replays(graph: torch.cuda.CUDAGraph) -> list[float]:
    """Seconds of each of many replays, by events, after a warm-up."""
    once = _timed(graph.replay, 1)[0]
    for _ in range(math.ceil(WARM_UP_SECONDS / max(once, 1e-6))):
        graph.replay()
    least, most = SAMPLES
    count = min(most, max(least, math.ceil(SAMPLE_SECONDS / max(once, 1e-6))))
    return _timed(graph.replay, count)


def _timed(function: Callable[[], Any], count: int) -> list[float]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        function()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(events)]


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large device-to-device copy."""
    source = torch.randint(255, (2 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / statistics.median(_timed(lambda: target.copy_(source), 20))


def matrix_rate(dtype: torch.dtype, size: int = 8192) -> float:
    """FLOP/s of a large matrix product on random data."""
    a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
    _timed(lambda: a @ b, 3)
    return 2 * size**3 / statistics.median(_timed(lambda: a @ b, 20))


def kernel_names(call: Callable[[], Any]) -> list[str]:
    """The kernels, copies and fills that one call puts on the GPU, in order."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as recorded:
        call()
        torch.cuda.synchronize()
    events = [event for event in recorded.events() if event.device_type.name == "CUDA"]
    return [event.name for event in sorted(events, key=lambda event: event.time_range.start)]


def total_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
