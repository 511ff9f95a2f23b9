"""Fixtures of situations from the field; what a version of transformers cannot do is skipped."""

import copy

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except NotImplementedError as error:
        if "expected transformers" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def shared():
    """A tiny LLaVA."""
    from tests.hf.field import CASE
    from tests.hf.models import make

    return make(CASE)


@pytest.fixture
def model(shared):
    """The same for every test of a module: unpruned after each."""
    import zoprune

    yield shared
    zoprune.restore(shared)


@pytest.fixture
def clone(shared):
    return copy.deepcopy(shared)


@pytest.fixture
def inputs(shared):
    from tests.hf.field import CASE
    from tests.hf.models import prompt

    return prompt(CASE, shared, (1,))
