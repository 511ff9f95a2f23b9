"""What is made of the operators' declarations: schemas, exports, documentation, defaults."""

import doctest
import importlib.util
import inspect
import re

import pytest
import torch

import zoprune_kernels
from tests.source_tree import ROOT, needs_sources
from zoprune_kernels.methods import METHODS, SelectOptions, SuppressOptions
from zoprune_kernels.operators import OPERATORS
from zoprune_kernels.testing import operator_calls


def test_published_schemas_have_not_changed():
    """To the last character: programs that were exported with them must load."""
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("zoprune::")]
    ours = [str(torch._C._get_schema(name, "")) for name in sorted(names)]
    assert ours == (ROOT / "tests/ops/schemas.txt").read_text().splitlines()


@pytest.mark.parametrize("name", OPERATORS)
def test_examples_run(name):
    """Those of the docstrings, which are those of docs/operators.md."""
    function = getattr(zoprune_kernels, name)
    found = doctest.DocTestFinder(recurse=False)
    names = {"torch": torch, "zoprune_kernels": zoprune_kernels}
    (example,) = found.find(function, name, globs=names)
    assert example.examples
    runner = doctest.DocTestRunner()
    runner.run(example)
    assert runner.failures == 0


def _generate():
    path = ROOT / "docs/generate.py"
    specification = importlib.util.spec_from_file_location("generate", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@needs_sources
@pytest.mark.parametrize("what", ["reference", "stub"])
def test_generated_files_are_up_to_date(what):
    """If not: python docs/generate.py."""
    generate = _generate()
    written = {"reference": generate.REFERENCE, "stub": generate.STUB}[what].read_text()
    assert getattr(generate, what)() == written


@pytest.mark.parametrize("name", OPERATORS)
def test_documentation_is_complete(name):
    """Every argument is named in the docstring, or the operator that it is shared with."""
    function = getattr(zoprune_kernels, name)
    doc = inspect.getdoc(function)
    for section in ("Args:", "Returns:", "Example:"):
        assert f"\n{section}\n" in doc
    if not name.endswith("_varlen"):
        assert "\nRaises:\n" in doc
    shared = re.search(r"\n    (others|all): ", doc)
    for argument in inspect.signature(function).parameters:
        assert shared or re.search(rf"\b{argument}\b", doc), argument


@pytest.mark.parametrize("name", OPERATORS)
def test_exports_have_the_operators_signature(name):
    signature = inspect.signature(getattr(zoprune_kernels, name))
    schema = getattr(torch.ops.zoprune, name).default._schema
    published = {"picks_by_score": "num_seed"}
    assert [published.get(n, n) for n in signature.parameters] == [a.name for a in schema.arguments]
    for parameter, argument in zip(signature.parameters.values(), schema.arguments, strict=True):
        assert (parameter.kind is parameter.KEYWORD_ONLY) == argument.kwarg_only
        if argument.has_default_value():
            assert parameter.default == argument.default_value
        else:
            assert parameter.default is parameter.empty


@needs_sources
def test_a_default_stands_in_one_python_file():
    """Of the packages: benchmarks and tests write down what they compare with."""
    files = [f for top in ("zoprune_kernels", "python") for f in (ROOT / top).rglob("*.py")]
    for name, default in (vars(SelectOptions()) | vars(SuppressOptions())).items():
        if type(default) is float:
            stands = re.compile(rf"\b{name}\b.*\b{re.escape(str(default))}\b")
            found = [f for f in files for line in f.read_text().splitlines() if stands.search(line)]
            assert found == [ROOT / "zoprune_kernels/methods.py"], name


def test_every_method_has_its_operator_and_options():
    """The methods' operators take what the table says, and ``score_and_select`` takes all of it."""
    everything = OPERATORS["score_and_select"].defaults
    for method in METHODS.values():
        own = OPERATORS[method.operator].defaults
        taken = set(vars(method.options())) | set(method.tensors)
        assert taken <= set(own) and taken <= set(everything)
        for name, default in vars(method.options()).items():
            assert own[name] == everything[name] == default


def test_num_seed_is_the_published_name_of_picks_by_score():
    scores, keys = torch.rand(40), torch.randn(40, 8)
    by_score = zoprune_kernels.select(scores, keys, 9, picks_by_score=4)
    assert torch.equal(by_score, zoprune_kernels.select(scores, keys, 9, num_seed=4))
    assert torch.equal(by_score, torch.ops.zoprune.select(scores, keys, 9, num_seed=4))
    assert not torch.equal(by_score, zoprune_kernels.select(scores, keys, 9))
    with pytest.raises(TypeError, match="picks_by_score and num_seed"):
        zoprune_kernels.select(scores, keys, 9, picks_by_score=4, num_seed=4)
    p, options = operator_calls(torch.float32)["score_and_select"]
    got = zoprune_kernels.score_and_select(*p, **options, picks_by_score=4)
    want = torch.ops.zoprune.score_and_select(*p, **options, num_seed=4)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
