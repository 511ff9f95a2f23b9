"""The Triton kernels under Triton's interpreter, on the CPU, against the float64 reference.

``test_triton`` runs this file in a process of its own: the interpreter replaces the compiler when
Triton is imported. Tiles are small, because the interpreter's time goes by programs.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy
import pytest
import torch
import triton.language as tl
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

from zoprune_kernels import philox, reference
from zoprune_kernels.testing import (
    DTYPES,
    TOKEN_TOLERANCE,
    calls,
    certify,
    operator_calls,
    projector,
    score_tolerance,
)
from zoprune_kernels.triton import norms, quadratic, register, sensitivity, tiles
from zoprune_kernels.triton.launch import Tile, aligned
from zoprune_kernels.triton.linear import linear

# Largest relative error of a score: accumulation in float32; rounding t and g in half precision,
# whose errors partly cancel within a norm (a few tenths of an ulp: 2^-11 and 2^-8).
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}
CPU = torch.device("cpu")
ops = SimpleNamespace(**{op: register.kernel(op) for op in register.OPERATORS})
torch.set_num_threads(1)  # the tensors are tiny
# Activations are float32 arithmetic whatever the dtype.
KINDS = [(torch.float32, name) for name in reference.ACTIVATION]
KINDS += [(dtype, name) for dtype in DTYPES[1:] for name in ("gelu", "relu")]


def use_tiles(monkeypatch, tma: bool, rows: int = 32) -> None:
    tile = Tile(rows, 64, 32, warps=4, stages=1, tma=tma)
    table = tiles.Tiles(*[tile] * len(tiles.Tiles._fields))
    monkeypatch.setattr(tiles, "tiles", lambda device, dtype: table)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    use_tiles(monkeypatch, tma=True)
    monkeypatch.setattr(tiles, "processors", lambda device: 3)
    monkeypatch.setattr(quadratic, "_SQUARE", 64)
    monkeypatch.setattr(norms, "_TOKENS", 32)


@pytest.fixture(autouse=True)
def rounding_to_nearest(monkeypatch):
    """The interpreter truncates float32 to bfloat16; the hardware rounds."""
    cast = interpreter.InterpreterBuilder.cast_impl

    def cast_impl(self, source, target):
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        rounded = torch.from_numpy(numpy.ascontiguousarray(source.data)).bfloat16()
        return interpreter.TensorHandle(rounded.view(torch.uint16).numpy(), target.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "cast_impl", cast_impl)


def relative_error(got: torch.Tensor, truth: torch.Tensor) -> float:
    assert got.shape == truth.shape
    return float(((got.double() - truth) / truth).abs().max())


def directions(num: int, dim: int) -> torch.Tensor:
    return philox.directions(num, dim, "sphere", 1, CPU).float()


@pytest.mark.parametrize("dtype, activation", KINDS)
def test_sensitivity(dtype, activation):
    p, u = projector(33, d=40, hidden=72, out=70, dtype=dtype), directions(2, 40)
    exact = p.double()
    for step in (0.0, 0.01, 1.0):
        got = ops.sensitivity(*p.layers[:4], u, step=step, activation=activation)
        truth = reference.sensitivity(
            *exact.layers[:4], u.double(), step=step, activation=activation
        )
        assert relative_error(got, truth) < TOLERANCE[dtype], step


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "silu"])
def test_large_activations_do_not_cancel(activation):
    p, u = projector(9, d=40, hidden=72, out=70, bias=False), directions(2, 40)
    exact = p.double()
    for size in (1e7, 1e30):
        got = ops.sensitivity(p.x * size, *p.layers[1:4], u, step=1.0, activation=activation)
        truth = reference.sensitivity(
            exact.x * size, *exact.layers[1:4], u.double(), step=0, activation=activation
        )
        assert relative_error(got, truth) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype, activation", KINDS)
def test_expected_sensitivity(dtype, activation):
    p = projector(33, d=40, hidden=150, out=70, dtype=dtype)  # M has 3 x 3 squares
    metric = torch.ops.zoprune.fold_metric(p.w1, p.w2)
    got = ops.expected_sensitivity(*p.first_layer, metric, activation=activation)
    truth = reference.expected_sensitivity(
        *p.double().first_layer, metric.double(), activation=activation
    )
    # float16 tokens meet a bfloat16 metric, hence bfloat16 slopes.
    assert relative_error(got, truth) < TOLERANCE[metric.dtype]


@pytest.mark.parametrize("tma", [True, False], ids=["descriptors", "pointers"])
@pytest.mark.parametrize("tokens, num", [(1, 1), (31, 3), (63, 2)])
def test_odd_sizes(monkeypatch, tma, tokens, num):
    use_tiles(monkeypatch, tma)
    p, u = projector(tokens, d=33, hidden=67, out=65, bias=tokens == 63), directions(num, 33)
    got = ops.sensitivity(*p.layers[:4], u)
    truth = reference.sensitivity(*p.double().layers[:4], u.double())
    assert relative_error(got, truth) < TOLERANCE[torch.float32]
    metric = reference.fold_metric(p.w1, p.w2)
    got = ops.expected_sensitivity(*p.first_layer, metric)
    truth = reference.expected_sensitivity(*p.double().first_layer, metric.double())
    assert relative_error(got, truth) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_each_direction_takes_the_form_that_its_length_needs(dtype):
    p, u = projector(40, d=40, hidden=72, out=70, dtype=dtype), directions(5, 40)
    u *= torch.tensor([1e-4, 4.0, 100.0, 1e-4, 100.0])[:, None]
    table = tiles.tiles(CPU, dtype)
    v = sensitivity.project_directions(u, p.w1, 0.01, "gelu", table.directions)
    assert v.form.tolist() == [0, 1, 2, 0, 2]
    w2 = aligned(p.w2)
    wanted = {"slope": dtype, "cubic": True, "preactivation": True}
    first = linear(aligned(p.x), aligned(p.w1), p.b1, "gelu", table.linear, **wanted)
    partials = sensitivity.partial_norms(first, v, w2, "gelu", table, 3, (0, 1, 2))
    got = partials.sum(-1).sqrt() * v.scale[:, None]  # [m, T]
    exact = p.double()
    for j, norm in enumerate(got):
        truth = reference.sensitivity(*exact.layers[:4], u[j : j + 1].double())
        assert relative_error(norm, truth) < TOLERANCE[dtype], j


def test_an_image_does_not_depend_on_its_batch():
    p, u = projector(2, 33, dtype=torch.float16), directions(2, 32)
    metric = torch.ops.zoprune.fold_metric(p.w1, p.w2)
    scores = ops.sensitivity(*p.layers[:4], u)
    expected = ops.expected_sensitivity(*p.first_layer, metric)
    for b in range(2):
        image = p.x[b]
        assert torch.equal(ops.sensitivity(image, *p.layers[1:4], u), scores[b])
        alone = ops.expected_sensitivity(image, *p.first_layer[1:], metric)
        assert torch.equal(alone, expected[b])


def test_a_token_that_is_not_finite_spoils_no_other():
    p, u = projector(40), directions(2, 32)
    metric = reference.fold_metric(p.w1, p.w2)
    clean = ops.sensitivity(*p.layers[:4], u), ops.expected_sensitivity(*p.first_layer, metric)
    p.x[3, 5], p.x[7, 0] = float("nan"), float("inf")
    spoilt = ops.sensitivity(*p.layers[:4], u), ops.expected_sensitivity(*p.first_layer, metric)
    for before, after in zip(clean, spoilt, strict=True):
        assert after.isnan().nonzero().flatten().tolist() == [3, 7]
        assert torch.equal(after.nan_to_num(0), before.index_fill(0, torch.tensor([3, 7]), 0.0))


def test_any_strides():
    p, u = projector(2, 33, d=24, hidden=40, out=36), directions(2, 24)
    want = ops.sensitivity(*p.layers[:4], u)
    shifted = torch.empty(p.w1.numel() + 1)[1:].view_as(p.w1).copy_(p.w1)  # not 16-byte aligned
    x = p.x.transpose(0, 1).contiguous().transpose(0, 1)
    got = ops.sensitivity(x, shifted, p.b1, p.w2.T.contiguous().T, u.T.contiguous().T)
    assert torch.equal(got, want)


@pytest.mark.parametrize("distribution", ["sphere", "gaussian", "rademacher", "orthogonal"])
def test_directions(distribution):
    for num, dim, seed in ((1, 1, 0), (5, 63, -1), (3, 130, 2**40 + 1)):
        got = ops.directions(num, dim, distribution=distribution, seed=seed, device=CPU)
        truth = philox.directions(num, dim, distribution, seed, CPU)
        if distribution == "rademacher":
            assert torch.equal(got, truth.float())
        assert torch.allclose(got.double(), truth, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_operators_agree_with_the_reference(monkeypatch, dtype):
    use_tiles(monkeypatch, tma=True, rows=128)
    for name, (arguments, options) in operator_calls(dtype).items():
        if not hasattr(ops, name) or name == "directions":
            continue
        got = getattr(ops, name)(*arguments, **options)
        want = getattr(torch.ops.zoprune, name)(*arguments, **options)
        for ours, theirs in zip(tree_leaves(got), tree_leaves(want), strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            if ours.is_floating_point():
                tokens = dtype != torch.float32 and ours.dtype == dtype
                limit = (TOKEN_TOLERANCE if tokens else TOLERANCE)[dtype] * theirs.abs().max()
                assert (ours.double() - theirs.double()).abs().max() < limit, name
            elif dtype == torch.float32:
                assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_of_every_operator_are_as_exact_as_promised(monkeypatch, dtype):
    """With room to spare: what ``benchmarks.gpu.parts check`` asks for on a GPU."""
    use_tiles(monkeypatch, tma=True, rows=128)
    checked = 0
    for call in calls(dtype, set(register.OPERATORS) - {"directions"}):
        metric = call.arguments.get("metric")
        multiplied = dtype if metric is None else metric.dtype
        promised = score_tolerance(dtype, 64, "cuda", multiplied)
        result = getattr(ops, call.op)(**call.arguments)
        for check in certify(call.op, call.arguments, result):
            if check.what == "scores":
                assert check.error < promised / 2, call.op
                checked += 1
    assert checked == 8
    assert score_tolerance(dtype, 1024, "cuda", torch.bfloat16) == score_tolerance(dtype, 64, "cpu")


def test_calls_alike_are_checked_once(monkeypatch):
    """Other tensors of the same kind are; another size or option is not, nor a wrong call."""
    operator, checked = register.DECLARED["sensitivity"], []
    checks = operator.checks
    monkeypatch.setattr(operator, "checks", lambda call: checked.append(0) or checks(call))
    sensitivity_ = register.kernel.__wrapped__("sensitivity")
    for tokens, step, total in ((33, 0.0, 1), (33, 0.0, 1), (34, 0.0, 2), (33, 1.0, 3)):
        p, u = projector(tokens, d=40, hidden=72, out=70), directions(2, 40)
        sensitivity_(*p.layers[:4], u, step=step)
        assert len(checked) == total
    for total in (4, 5):
        with pytest.raises(RuntimeError, match="zoprune::sensitivity: step: expected 0 or a num"):
            sensitivity_(*p.layers[:4], u, step=-1.0)
        assert len(checked) == total


@pytest.mark.parametrize("method", ["dpp", "suppress", "coverage"])
def test_every_method_follows_the_scores(method):
    p = projector(2, 33)
    metric = reference.fold_metric(p.w1, p.w2)
    got, _ = ops.score_and_select(*p.layers, 5, metric=metric, method=method)
    want, _ = torch.ops.zoprune.score_and_select(*p.layers, 5, metric=metric, method=method)
    assert torch.equal(got, want)
    offsets = [torch.tensor([0, n, 2 * n], dtype=torch.int32) for n in (33, 5)]
    flat = (p.x.flatten(0, 1), *p.layers[1:])
    packed, _ = ops.score_and_select_varlen(*flat, *offsets, 10, metric=metric, method=method)
    assert torch.equal(packed.view(2, 5), got + torch.tensor([[0], [33]]))


def test_a_linear_projector_scores_all_tokens_alike():
    p, u = projector(33), directions(2, 32)
    scores = ops.sensitivity(*p.layers[:4], u, activation="identity")
    assert len(scores.unique()) == 1


@pytest.mark.parametrize(
    "options, launches",
    [({"step": 0.0}, 7), ({"step": 0.01}, 9), ({"step": 0.01, "activation": "relu"}, 7)],
)
def test_launches(monkeypatch, options, launches):
    p = projector(33)
    counted = []
    run = interpreter.GridExecutor.__call__
    monkeypatch.setattr(
        interpreter.GridExecutor,
        "__call__",
        lambda self, *a, **k: (counted.append(self.fn), run(self, *a, **k))[1],
    )
    ops.score_and_select(*p.layers, 3, num_directions=2, **options)
    assert len(counted) == launches
    counted.clear()
    ops.score_and_select(*p.layers, 3, metric=reference.fold_metric(p.w1, p.w2))
    assert len(counted) == 3
