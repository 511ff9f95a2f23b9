"""Progress of a slow step on stderr: one line that updates on a terminal, four lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 24
_CLEAR = "\r\033[K"  # back to the start of the line, then erase it


class Progress:
    """Call it with the number of steps done; ``finish`` replaces the bar by a result."""

    def __init__(self, label: str, total: int = 1, stream: TextIO | None = None) -> None:
        self.label = label
        self.total = total
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.start = time.perf_counter()
        self(0)

    def __call__(self, done: int) -> None:
        """Report ``done`` of ``total`` steps."""
        if self.live:
            self._write(f"{_CLEAR}{self._name()}{self._bar(done) if self.total > 1 else '...'}")
        elif 0 < done < self.total and done * 4 // self.total > (done - 1) * 4 // self.total:
            self._write(f"{self._name()}{self._count(done)}\n")

    def finish(self, result: str) -> None:
        """End the line with what came out."""
        self._write(f"{_CLEAR if self.live else ''}{self._name()}{result}\n")

    def _name(self) -> str:
        return f"  {self.label:<24}"

    def _bar(self, done: int) -> str:
        filled = "#" * (done * _WIDTH // self.total)
        return f"[{filled.ljust(_WIDTH, '.')}] {self._count(done)}"

    def _count(self, done: int) -> str:
        if not done:
            return f"0/{self.total}"
        seconds = (time.perf_counter() - self.start) / done * (self.total - done)
        return f"{done}/{self.total}, about {seconds:.0f} s left"

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
