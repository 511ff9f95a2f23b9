"""Fixtures shared by all tests."""

import os

import pytest
import torch

# Without it, cuBLAS refuses to work while deterministic algorithms are asked for.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import zoprune_kernels  # noqa: F401  registers the operators
from tests import proofs


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
    "tests/ops/test_instruction_sets.py",
    "tests/cuda/test_shim.py",
    "tests/cuda/test_races.py",
    "tests/ops/test_triton.py",
    "tests/cuda/test_launches.py",
    "tests/cuda/test_audit.py",
    "tests/hf/test_behaviour.py",
    "tests/test_demo.py",
)


RECORDER = proofs.Recorder()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", choices=("all", "changed", "record"), default="all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(SLOW))
    # torch.compile takes a process half a minute, in which the others run all the rest.
    items.sort(
        key=lambda item: not (item.path.name.startswith("test_gpu") and "compiles" in item.name)
    )
    for item in items:
        if paths := proofs.proves(item):
            item.user_properties.append(("proves", paths))
    if config.getoption("--proofs") == "changed":
        config.hook.pytest_deselected(items=proofs.drop_proved(items))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    RECORDER.add(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--proofs") == "record" and not hasattr(
        session.config, "workerinput"
    ):
        RECORDER.write()
