"""The options: what is refused, in which words, and what vLLM's caches are keyed on."""

from types import SimpleNamespace

import pytest
from zoprune.vllm.options import Options, budget, decode_keep, encode_keep, without_options


def options(**given):
    return Options.of(SimpleNamespace(**{f"zoprune_{name}": v for name, v in given.items()}))


def test_without_an_option_there_is_nothing():
    assert Options.of(SimpleNamespace(hidden_size=4, zoo=1)) is None


@pytest.mark.parametrize(
    "given, message",
    [
        (
            dict(keep=0),
            "zoprune_keep: expected a count >= 1 or a ratio in (0, 1] as a float, got 0",
        ),
        (dict(keep=1.5), "zoprune_keep: expected a count"),
        (dict(keep=0.0), "zoprune_keep: expected a count"),
        (dict(keep=float("nan")), "zoprune_keep: expected a count"),
        (dict(keep=True), "zoprune_keep: expected a count"),
        (dict(keep="64"), "zoprune_keep: expected a count"),
        (dict(keep=2**40), "zoprune_keep: expected a count"),
        (dict(keep=5, method="best"), "zoprune_method: expected one of sads, maxmin"),
        (dict(keep=5, estimator="open"), "zoprune_estimator: expected one of closed, directions"),
        (dict(keep=5, distribution="x"), "zoprune_distribution: expected one of sphere"),
        (dict(keep=5, max_similarity=2), "zoprune_max_similarity: expected a cosine in [-1, 1]"),
        (dict(keep=5, max_similarity=float("nan")), "zoprune_max_similarity: expected a cosine"),
        (
            dict(keep=5, max_similarity=0.9, method="dpp"),
            "zoprune_max_similarity: expected 1 with method 'dpp', got 0.9",
        ),
        (dict(keep=5, num_directions=0), "zoprune_num_directions: expected a count >= 1"),
        (dict(keep=5, step=-1.0), "zoprune_step: expected a number in [0, 1e6]"),
        (dict(keep=5, seed=1.5), "zoprune_seed: expected an integer"),
        (dict(keep=5, through_norm=1), "zoprune_through_norm: expected true or false, got 1"),
        (dict(keep=5, keeep=5), "zoprune_keeep: expected one of zoprune_keep, zoprune_method"),
        (dict(method="sads"), "zoprune_keep: expected beside zoprune_method"),
        (dict(keep=5, prompt_seeds=2), "zoprune_prompt_seeds: expected a choice that goes by the"),
        (dict(keep=5, relevance=1), "zoprune_relevance: expected a choice that goes by the image"),
    ],
)
def test_bad_options_are_named(given, message):
    with pytest.raises(ValueError) as error:
        options(**given)
    assert str(error.value).startswith(f"zoprune: {message}")


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"zoprune_keep": 0}, "zoprune_keep: expected a count"),
        ({"zoprune_keep": None}, "zoprune_keep: expected a count"),
        ({"zoprune_method": "topk"}, "zoprune_method: expected at the server's start"),
        ({"images_kwargs": {"zoprune_keep": 3}}, "images_kwargs: expected zoprune_keep beside it"),
    ],
)
def test_bad_requests_are_named(kwargs, message):
    with pytest.raises(ValueError) as error:
        options(keep=5).of_request(kwargs)
    assert str(error.value).startswith(f"zoprune: {message}")


def test_a_request_may_name_its_budget():
    assert options(keep=5).of_request({"zoprune_keep": 0.25, "size": 3}) == 0.25
    assert options(keep=5).of_request({"size": 3}) == 5
    assert without_options({"zoprune_keep": 3, "size": 4}) == {"size": 4}


def test_caches_tell_every_option_apart():
    base = options(keep=5)
    others = [base.identity(6), base.identity(5.0 / 8), options(keep=5, method="topk").identity(5)]
    others += [
        options(keep=5, max_similarity=0.5).identity(5),
        base.identity(1),
        base.identity(1.0),
    ]
    others += [options(keep=5, seed=1, estimator="directions").identity(5)]
    assert len({base.identity(5), *others}) == 1 + len(others)
    assert base.identity(7) == options(keep=9).identity(7)  # the server's own budget is no matter


@pytest.mark.parametrize("keep", [1, 64, 2**31 - 1, 1.0, 0.1, 1e-9])
def test_budgets_travel_exactly(keep):
    decoded = decode_keep(encode_keep(keep))
    assert decoded == keep and type(decoded) is type(keep)


def test_budgets_of_an_image():
    assert [budget(5, 16), budget(20, 16), budget(0.25, 16), budget(0.001, 16), budget(1.0, 7)] == [
        5,
        16,
        4,
        1,
        7,
    ]
