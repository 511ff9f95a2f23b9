"""Every operator is a good torch citizen: schema, opcheck, compile, vmap, no backward, threads."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

import zoprune_kernels
from zoprune_kernels.operators import OPERATORS
from zoprune_kernels.testing import DTYPES, fallback, operator_calls, projector

OPS = torch.ops.zoprune
PRUNE_OPTIONS = (
    "Tensor? directions=None, Tensor? metric=None, Tensor? keys=None, Tensor? must_keep=None, "
    "Tensor? valid=None, *, int num_directions=64, float step=0.01, "
    'str distribution="sphere", int seed=0, str activation="gelu", str method="sads", '
    "float max_similarity=1., bool sort=True"
)
PROJECTOR = "Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, int k"


@pytest.mark.parametrize(
    "schema",
    [
        'directions(int num, int dim, *, str distribution="sphere", int seed=0, '
        "ScalarType? dtype=None, Device? device=None) -> Tensor",
        "sensitivity(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor directions, *, "
        'float step=0.01, str activation="gelu") -> Tensor',
        "fold_metric(Tensor w1, Tensor w2, Tensor? directions=None) -> Tensor",
        "expected_sensitivity(Tensor x, Tensor w1, Tensor? b1, Tensor metric, *, "
        'str activation="gelu") -> Tensor',
        "select(Tensor scores, Tensor? keys, int k, Tensor? must_keep=None, Tensor? valid=None, *, "
        'str method="sads", float max_similarity=1., bool sort=True) -> Tensor',
        f"score_and_select({PROJECTOR}, {PRUNE_OPTIONS}) -> (Tensor indices, Tensor scores)",
        f"project_and_select({PROJECTOR}, {PRUNE_OPTIONS}) "
        "-> (Tensor tokens, Tensor indices, Tensor scores)",
    ],
)
def test_schema_is_the_published_one(schema):
    """A call written for it works: what is more has a default and stands after what it has."""
    wanted = torch._C.parse_schema(f"zoprune::{schema}")
    ours = getattr(OPS, schema.split("(")[0]).default._schema
    arguments = {argument.name: argument for argument in ours.arguments}
    for place, argument in enumerate(wanted.arguments):
        assert _parts(arguments.pop(argument.name)) == _parts(argument)
        assert argument.kwarg_only or ours.arguments[place].name == argument.name
    assert all(argument.has_default_value() for argument in arguments.values())
    assert [_parts(value) for value in ours.returns] == [_parts(value) for value in wanted.returns]


def _parts(argument):
    return argument.name, str(argument.type), argument.default_value, argument.kwarg_only


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name, dtype):
    args, options = operator_calls(dtype)[name]
    result = torch.library.opcheck(getattr(OPS, name).default, args, options)
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", OPERATORS)
def test_documented_function_calls_the_operator(name):
    function = getattr(zoprune_kernels, name)
    assert function.__doc__ and "Returns:" in function.__doc__
    args, options = operator_calls(torch.float32)[name]
    torch.testing.assert_close(function(*args, **options), getattr(OPS, name)(*args, **options))


def test_compile_whole_graph_with_dynamic_shapes():
    p = projector(2, 63)
    metric = OPS.fold_metric(p.w1, p.w2)

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def prune(x):
        tokens, _, scores = OPS.project_and_select(2 * x, *p.layers[1:], 8, metric=metric)
        return tokens + 1, scores

    for tokens in (63, 40):
        x = p.x[:, :tokens]
        kept, _, scores = OPS.project_and_select(2 * x, *p.layers[1:], 8, metric=metric)
        torch.testing.assert_close(prune(x), (kept + 1, scores))


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "directions"])
def test_backward_says_inference_only(name):
    args, options = operator_calls(torch.float32)[name]
    args = tree_map_only(
        torch.Tensor, lambda t: t.clone().requires_grad_() if t.is_floating_point() else t, args
    )
    outputs = tree_leaves(getattr(OPS, name)(*args, **options))
    differentiable = [out for out in outputs if out.is_floating_point()]
    for out in differentiable:
        with pytest.raises(RuntimeError, match=f"zoprune::{name}: inference-only"):
            out.sum().backward()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_works():
    scores, keys = torch.rand(3, 63), torch.randn(3, 63, 8)
    picks = torch.vmap(lambda s, z: OPS.select(s, z, 5))(scores, keys)
    assert torch.equal(picks, OPS.select(scores, keys, 5))


@pytest.mark.parametrize("name", OPERATORS)
def test_threads_agree(name):
    args, options = operator_calls(torch.float32)[name]
    operator = getattr(OPS, name)
    once = operator(*args, **options)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(operator, *args, **options) for _ in range(16)]
        for future in futures:
            torch.testing.assert_close(future.result(), once, rtol=0, atol=0)


def test_linear_projector_gives_equal_scores_and_diverse_tokens():
    p = projector(2, 63)
    tokens, indices, scores = OPS.project_and_select(*p.layers, 8, activation="identity")
    assert (scores == scores[0, 0]).all()
    diverse = OPS.select(torch.ones(2, 63), p.x @ p.w1.T @ p.w2.T, 8)
    assert indices.shape == diverse.shape and tokens.shape == (2, 8, 48)


def test_linear_projector_warns_once():
    code = """if True:
        import warnings, torch, zoprune_kernels
        x, w = torch.randn(5, 4), torch.randn(4, 4)
        warnings.simplefilter("always")
        for _ in range(3):
            torch.ops.zoprune.score_and_select(x, w, None, w, None, 2, activation="identity")
        """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stderr.count("selecting by diversity only") == 1


@pytest.mark.parametrize(
    "name", [name for name, operator in OPERATORS.items() if operator.hand_over]
)
def test_what_a_cuda_kernel_hands_over_runs_as_the_reference(name, monkeypatch):
    args, options = operator_calls(torch.float32)[name]
    hand_over = getattr(OPS, f"_reference_{name}")
    with pytest.warns(UserWarning, match=f"{name}: running the PyTorch reference, not CUDA: why"):
        got = hand_over("why", *args, **options)
    assert torch.equal(got, getattr(fallback, name)(*args, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has said so
        hand_over("why", *args, **options)
    monkeypatch.setenv("ZOPRUNE_BACKEND", "cuda")
    with pytest.raises(RuntimeError, match=f"{name}: ZOPRUNE_BACKEND=cuda cannot run: why"):
        hand_over("why", *args, **options)
