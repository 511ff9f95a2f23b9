"""Fixtures shared by all tests."""

import pytest
import torch

import zoprune_kernels  # noqa: F401  registers the operators


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill uninitialised tensors, also in native kernels, so that an unwritten one shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
