from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda.on_cpu import ADDRESSES, build


@pytest.fixture(scope="session")
def executable(tmp_path_factory) -> Path:
    """csrc/cuda's selections on the CPU, under AddressSanitizer and UBSan."""
    return build(tmp_path_factory.mktemp("cuda_shim"), ADDRESSES)
