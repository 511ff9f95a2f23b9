"""A server with worker processes: answers, budgets, metrics, bad options, a soak."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vllm import checkpoints
from tests.vllm.server import Server
from tests.vllm.table import CASES, pictures, reference

KEEPS = (None, 3, 0.5, 1.0)  # None: the server's, 5
REQUESTS, CONCURRENT = 500, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.llava(tmp_path_factory.mktemp("server") / "llava")


@pytest.fixture(scope="module")
def server(folder):
    options = json.dumps({"zoprune_keep": 5})
    server = Server(
        folder, folder.parent / "log", "--hf-overrides", options, "--trust-request-mm-kwargs"
    )
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def questions():
    """Messages of words and pictures."""
    a, b, c = pictures(CASES["llava"])
    return [["w1 w2", a, "w3"], [b, "w9 w8 w7"], ["w4", c, "w5", a, "w6"], ["w11 w12"]]


@pytest.fixture(scope="module")
def answers(folder, questions):
    """What transformers says to each question with each budget, as text."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    requests = []
    for message in questions[:3]:
        text = " ".join(part if isinstance(part, str) else "<image>" for part in message)
        requests.append((text + " ", [part for part in message if not isinstance(part, str)]))
    result = {}
    for keep in KEEPS:
        tokens = reference(folder, requests, 5 if keep is None else keep)
        for index, ids in enumerate(tokens):
            result[index, keep] = words.decode(ids[:8])
    return result


def said(answer):
    return answer["choices"][0]["message"]["content"].strip()


def test_answers_are_those_of_transformers(server, questions, answers):
    wrong = {}
    for (index, keep), expected in answers.items():
        status, answer = server.chat(questions[index], keep)
        assert status == 200, answer
        if said(answer) != expected:
            wrong[index, keep] = (said(answer), expected)
    assert not wrong


def test_prompts_are_as_long_as_the_budget_says(server, questions):
    lengths = [server.chat(questions[0], keep)[1]["usage"]["prompt_tokens"] for keep in KEEPS]
    assert lengths == [3 + 5, 3 + 3, 3 + 8, 3 + 16]


def test_metrics_count_tokens(server):
    before = server.metrics()
    pixels = pictures(CASES["llava"], seed=77)[0]
    for _ in range(2):  # the second time from the encoder's cache or the prefix cache
        assert server.chat(["w1", pixels], 4)[0] == 200
    after = server.metrics()
    added = {name: after[name] - before[name] for name in after}
    assert added["zoprune:images_total"] == 1
    assert added["zoprune:visual_tokens_in_total"] == 16
    assert added["zoprune:visual_tokens_kept_total"] == 4
    assert 0 < added["zoprune:scoring_seconds_total"] < 10
    assert "zoprune: Llava keeps 5 visual tokens of each image" in server.log.read_text()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"zoprune_keep": 0}, "zoprune_keep: expected a count >= 1 or a ratio in (0, 1]"),
        ({"zoprune_keep": "all"}, "zoprune_keep: expected a count >= 1 or a ratio"),
        ({"zoprune_keep": 1.5}, "zoprune_keep: expected a count >= 1 or a ratio"),
        ({"zoprune_method": "topk"}, "zoprune_method: expected at the server's start"),
        ({"images_kwargs": {"zoprune_keep": 3}}, "images_kwargs: expected zoprune_keep beside it"),
    ],
)
def test_bad_options_get_a_400_and_the_server_lives(server, questions, kwargs, message):
    status, answer = server.chat(questions[0], mm_processor_kwargs=kwargs)
    assert status == 400
    assert message in json.loads(answer)["error"]["message"]
    assert server.chat(questions[0])[0] == 200


def test_soak(server, questions, answers):
    """Mixed questions and budgets, eight at once: no wrong answer; memory levels off."""
    answers = dict(answers)
    answers[3, None] = said(server.chat(questions[3])[1])
    choice = random.Random(0)
    asked = [choice.choice(sorted(answers, key=str)) for _ in range(REQUESTS)]

    def ask(question):
        status, answer = server.chat(questions[question[0]], question[1])
        return status == 200 and said(answer) == answers[question]

    with ThreadPoolExecutor(CONCURRENT) as pool:
        right = list(pool.map(ask, asked[:300]))
        before = server.memory()
        right += pool.map(ask, asked[300:])
    assert len(right) == REQUESTS
    assert all(right), f"{right.count(False)} of {REQUESTS} answers are wrong"
    assert server.memory() - before < 64 * 2**20
