"""``python -m zoprune.evaluate``: an evaluation harness's models, pruned."""

import subprocess
import sys
import textwrap

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from zoprune import evaluate  # noqa: E402
from zoprune.hf import generation  # noqa: E402
from zoprune.hf.settings import pruning_of  # noqa: E402

from tests.hf.checkpoint import save_llava  # noqa: E402
from tests.hf.mlp_models import llava  # noqa: E402
from tests.hf.models import CASES, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

# What zoprune.evaluate relies on of lmms-eval: ``models.get_model`` is looked up at the call and
# gives a class with ``create_from_arg_string``; ``__main__.cli_evaluate`` reads ``sys.argv``. Its
# evaluator drops the model at the end, and its llava_hf takes an empty answer for an error.
STAND_IN = {
    "__init__.py": "",
    "models/__init__.py": """
        import transformers
        from PIL import Image

        class Simple:
            is_simple = True
            def __init__(self, pretrained, batch_size=1, device="cpu", dtype="auto", method=None):
                self._model = transformers.LlavaForConditionalGeneration.from_pretrained(pretrained)
                self.processor = transformers.AutoProcessor.from_pretrained(pretrained)
                self.batch_size, self.dtype = batch_size, dtype
            @classmethod
            def create_from_arg_string(cls, text, additional_config=None):
                given = dict(piece.split("=") for piece in text.split(","))
                return cls(**given, **(additional_config or {}))
            def generate_until(self, requests):
                answers = []
                for question, picture in requests:
                    text = f"<image> {question}"
                    inputs = self.processor(images=picture, text=text, return_tensors="pt")
                    try:
                        output = self._model.generate(**inputs, max_new_tokens=2, do_sample=False)
                        answers.append(output[0, -2:].tolist())
                    except Exception:
                        answers.append([])
                return answers
            def clean(self):
                del self._model

        class Plain(Simple):
            def __init__(self, pretrained, batch_size=1, device="cpu"):
                super().__init__(pretrained)

        def get_model(name, force_simple=False):
            return {"llava_hf": Plain, "both": Simple}[name]
    """,
    "evaluator.py": """
        from PIL import Image
        from lmms_eval import models

        TASKS = {"tiny": [("what is this ?", (250, 0, 0)), ("is this red ?", (0, 9, 200))]}

        def simple_evaluate(model, model_args, tasks):
            cls = models.get_model(model, False)
            lm = cls.create_from_arg_string(model_args, {"device": "cpu"})
            assert lm.is_simple
            docs = [doc for task in tasks for doc in TASKS[task]]
            requests = [(text, Image.new("RGB", (40, 30), color)) for text, color in docs]
            answers = lm.generate_until(requests)
            lm.clean()
            return answers
    """,
    "__main__.py": """
        import argparse
        from lmms_eval.evaluator import simple_evaluate

        def cli_evaluate(args=None):
            parser = argparse.ArgumentParser()
            for name in ("--model", "--model_args", "--tasks"):
                parser.add_argument(name, default="")
            args = parser.parse_args()
            print("answers", simple_evaluate(args.model, args.model_args, args.tasks.split(",")))
    """,
}


@pytest.fixture
def harness(tmp_path, monkeypatch):
    """A package with lmms-eval's name and interface; gives a checkpoint for it."""
    for name, text in STAND_IN.items():
        path = tmp_path / "lmms_eval" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    known = [name for name in sys.modules if name.split(".")[0] == "lmms_eval"]
    for name in known:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield save_llava(tmp_path / "model")
    for name in [name for name in sys.modules if name.split(".")[0] == "lmms_eval"]:
        del sys.modules[name]


def run(model_args, *more, model="llava_hf"):
    arguments = ["--model", model, "--model_args", model_args, "--tasks", "tiny", *more]
    return evaluate.main(arguments)


def test_a_task_runs_on_the_pruned_model(harness, capsys):
    argv = list(sys.argv)
    assert run(f"pretrained={harness},keep=5,method=maxmin") == 0
    printed = capsys.readouterr().out
    assert "LlavaForConditionalGeneration pruned with {'keep': 5, 'method': 'maxmin'}" in printed
    assert "the last call kept 5 of 16 visual tokens" in printed
    assert "answers [[" in printed and sys.argv == argv
    import lmms_eval.models

    assert not isinstance(lmms_eval.models.get_model("llava_hf"), evaluate.PrunedClass)


def test_all_tokens_give_the_answers_of_the_unpruned_model(harness, capsys):
    import lmms_eval.evaluator

    expected = lmms_eval.evaluator.simple_evaluate("llava_hf", f"pretrained={harness}", ["tiny"])
    assert run(f"pretrained={harness},keep=1.0") == 0
    assert f"answers {expected}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("pretrained=DIR", "model_args: expected keep=COUNT or keep=RATIO among them, got"),
        ("pretrained=DIR,keep", "model_args: expected name=value, ..., got 'keep'"),
        ("pretrained=DIR,keep=many", "keep: expected a count >= 1 or a ratio"),
        ("pretrained=DIR,keep=0", "keep: expected a count >= 1 or a ratio"),
        ("pretrained=DIR,keep=true", "keep: expected a count >= 1 or a ratio"),
        ("pretrained=DIR,keep=1.5", "keep: expected a count >= 1 or a ratio"),
        ("keep=3,keep=4", "model_args: expected keep once, got keep=3 and keep=4"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message, capsys):
    assert run(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("keep=3,per=frame", "per: expected 'image', got 'frame'"),
        ("keep=3,method=best", "method: expected one of"),
        ("keep=3,video=evs", "video: expected None"),
    ],
)
def test_what_prune_refuses_ends_the_run(harness, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(f"pretrained={harness},{arguments}")


def test_calls_that_fail_are_told_where_the_harness_is_silent(harness, capsys, monkeypatch):
    calls = []

    def fails_once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise ValueError("no such image")
        return shorten(*args)

    shorten = generation.shorten
    monkeypatch.setattr(generation, "shorten", fails_once)
    assert run(f"pretrained={harness},keep=5") == 1
    printed = capsys.readouterr()
    assert "1 of 2 calls of generate failed: ValueError: no such image" in printed.err
    assert "answers [[], [" in printed.out and "the last call kept 5 of 16" in printed.out


def test_a_name_that_both_take_is_refused(harness):
    with pytest.raises(ValueError, match=r"model_args: .*Simple and zoprune.prune both.*method"):
        run(f"pretrained={harness},keep=3,method=maxmin", model="both")


def test_without_the_harness(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    assert run("pretrained=x,keep=3") == 2
    assert "zoprune_kernels[evaluate]" in capsys.readouterr().err


def test_splitting():
    text = 'pretrained=a/b,keep=0.25,per=call,kw={"a":1,"b":2},method=maxmin,through_norm=false'
    others, ours = evaluate.split_arguments(text)
    assert others == 'pretrained=a/b,kw={"a":1,"b":2}'
    assert ours == {"keep": 0.25, "per": "call", "method": "maxmin", "through_norm": False}
    for value, kind in (("1", int), ("1.0", float)):
        assert type(evaluate.split_arguments(f"keep={value}")[1]["keep"]) is kind


class Wrapper:
    def __init__(self, **held):
        vars(self).update(held)


@torch.no_grad()
def test_any_object_that_holds_a_model():
    model = make(CASES[0])
    wrapper = Wrapper(name="x", model=model, same=model, projector=torch.nn.Linear(2, 2))
    assert evaluate.prune_wrapper(wrapper, 3, method="maxmin") is wrapper
    model(**prompt(CASES[0], model))
    assert str(zoprune.report(model)) == "3 of 16"
    with pytest.raises(TypeError, match="one supported model in a Wrapper, got none"):
        evaluate.prune_wrapper(Wrapper(), 3)
    with pytest.raises(TypeError, match="in a Wrapper, got Linear; zoprune: model: expected one"):
        evaluate.prune_wrapper(Wrapper(a=torch.nn.Linear(2, 2)), 3)
    other = llava()
    with pytest.raises(TypeError, match="in a Wrapper, got LlavaForConditionalGeneration"):
        evaluate.prune_wrapper(Wrapper(a=model, b=other), 3)
    assert pruning_of(other) is None


@pytest.mark.parametrize("kind", ["simple", "chat"])
def test_the_real_lmms_eval(tmp_path, kind):
    """Its own command line, evaluator and llava_hf on a task of two local pictures."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
    pytest.importorskip("decord", reason="decord is not installed, which llava_hf imports")
    from PIL import Image

    checkpoint, folder = save_llava(tmp_path / "model"), tmp_path / "tasks"
    if kind == "chat":
        processor = transformers.AutoProcessor.from_pretrained(checkpoint)
        processor.chat_template = CHAT_TEMPLATE
        processor.save_pretrained(checkpoint)
    folder.mkdir()
    rows = []
    for i, color in enumerate([(250, 0, 0), (0, 9, 200)]):
        Image.new("RGB", (40, 30), color).save(tmp_path / f"{i}.png")
        rows.append(f'{{"picture": "{tmp_path}/{i}.png", "question": "is this red ?"}}')
    (tmp_path / "docs.jsonl").write_text("\n".join(rows))
    (folder / "tiny.yaml").write_text(TASK.format(docs=tmp_path / "docs.jsonl"))
    (folder / "utils.py").write_text(textwrap.dedent(FUNCTIONS))
    command = ["--model", "llava_hf", "--tasks", "tiny", "--batch_size", "1"]
    command += ["--force_simple"] if kind == "simple" else []
    command += ["--model_args", f"pretrained={checkpoint},device=cpu,device_map=cpu,keep=5"]
    command += ["--include_path", str(folder), "--verbosity", "DEBUG"]
    done = subprocess.run(
        [sys.executable, "-m", "zoprune.evaluate", *command],
        capture_output=True,
        text=True,
        env={**__import__("os").environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "the last call kept 5 of 16 visual tokens" in done.stdout
    assert "answered" in done.stdout  # the metric's row


CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
)
TASK = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {docs}}}
task: tiny
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: "yes"
generation_kwargs: {{max_new_tokens: 2, temperature: 0, do_sample: false}}
process_results: !function utils.results
metric_list:
  - metric: answered
    aggregation: mean
    higher_is_better: true
"""
FUNCTIONS = """
    from PIL import Image

    def visual(doc):
        return [Image.open(doc["picture"]).convert("RGB")]

    def text(doc, lmms_eval_specific_kwargs=None):
        return doc["question"]

    def results(doc, answers):
        return {"answered": float(isinstance(answers[0], str))}
"""
