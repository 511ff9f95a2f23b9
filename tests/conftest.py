"""Fixtures shared by all tests."""

import os

import pytest
import torch

# Without it, cuBLAS refuses to work while deterministic algorithms are asked for.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

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


@pytest.fixture
def one_thread():
    """Tiny models spend more time on handing out work than on the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Minutes of compilers and interpreters: first, so that no process waits for another's last one.
SLOW = (
    "test_instruction_sets",
    "test_cuda_shim",
    "test_cuda_races",
    "test_triton",
    "test_cuda_audit",
    "test_hf_behaviour",
    "test_demo",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in SLOW)
