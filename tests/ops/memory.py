"""What a call leaves on the heap, to the byte: glibc's count of what is in use."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import pytest

_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()


class _Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


_LIBC = ctypes.CDLL(None)
needs_count = pytest.mark.skipif(
    not hasattr(_LIBC, "mallinfo2"), reason="bytes in use are counted by glibc 2.33 and later"
)


def bytes_in_use() -> int:
    gc.collect()
    _LIBC.mallinfo2.restype = _Usage
    usage = _LIBC.mallinfo2()
    return usage.uordblks + usage.hblkhd


def growth(call: Callable[[], object], calls: int, warm_up: int = 20) -> float:
    """Bytes that a call leaves behind, on average over so many."""
    for _ in range(warm_up):
        call()
    before = bytes_in_use()
    for _ in range(calls):
        call()
    return (bytes_in_use() - before) / calls
