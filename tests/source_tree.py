"""Tests of the source tree itself, which is not there where an installed package is tested."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

needs_sources = pytest.mark.skipif(
    not (ROOT / "build_backend.py").exists(), reason="the source tree is not here"
)
