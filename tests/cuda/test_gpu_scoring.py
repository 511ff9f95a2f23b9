"""Scoring on a GPU: float64 truth, graphs, streams, devices, torch.compile. Skipped without one."""

import pytest
import torch
from torch.utils._pytree import tree_map_only

from zoprune_kernels import environment, reference
from zoprune_kernels.testing import DTYPES, operator_calls, projector
from zoprune_kernels.triton import launch, register

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
OPS = torch.ops.zoprune
# As under the interpreter; float32 is IEEE, its functions of a are good to a few ulp.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 4e-3}
# Activations are float32 arithmetic whatever the dtype.
KINDS = [(torch.bfloat16, name) for name in reference.ACTIVATION]
KINDS += [(torch.float32, "gelu"), (torch.float32, "relu"), (torch.float16, "silu")]


def cuda(tree):
    return tree_map_only(torch.Tensor, lambda tensor: tensor.cuda(), tree)


def gpu_projector(*lead, **sizes):
    p = projector(*lead, **sizes)
    return p, cuda(p.layers)


def relative_error(got, truth):
    return float(((got.cpu().double() - truth) / truth).abs().max())


@pytest.fixture(scope="module", autouse=True)
def triton_runs_here():
    assert register.why_not("sensitivity") is None
    assert register.why_not_on(torch.device("cuda", 0)) is None


@pytest.mark.parametrize("dtype, activation", KINDS)
@pytest.mark.parametrize("tokens", [1, 63, 577])
def test_scores_match_float64(tokens, dtype, activation):
    p, layers = gpu_projector(tokens, d=160, hidden=712, out=520, dtype=dtype)
    u = OPS.directions(5, 160, seed=tokens, device="cuda")
    exact = p.double()
    for step in (0.0, 0.01, 1.0):
        got = OPS.sensitivity(*layers[:4], u, step=step, activation=activation)
        truth = reference.sensitivity(
            *exact.layers[:4], u.cpu().double(), step=step, activation=activation
        )
        assert relative_error(got, truth) < TOLERANCE[dtype], step
    metric = OPS.fold_metric(layers[1], layers[3])
    got = OPS.expected_sensitivity(*layers[:3], metric, activation=activation)
    truth = reference.expected_sensitivity(
        *exact.first_layer, metric.cpu().double(), activation=activation
    )
    assert relative_error(got, truth) < TOLERANCE[metric.dtype]


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_float32_obeys_the_matmul_precision(precision):
    p, layers = gpu_projector(577, d=160, hidden=712, out=520)
    truth = reference.expected_sensitivity(
        *p.double().first_layer, reference.fold_metric(p.w1, p.w2).double()
    )
    metric = reference.fold_metric(p.w1, p.w2).cuda()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        error = relative_error(OPS.expected_sensitivity(*layers[:3], metric), truth)
    finally:
        torch.set_float32_matmul_precision(before)
    assert error < (1e-5 if precision == "highest" else 2e-3)


@pytest.mark.parametrize("distribution", ["sphere", "gaussian", "rademacher", "orthogonal"])
def test_directions_are_those_of_the_cpu(distribution):
    for num, dim in ((1, 1), (64, 1024), (7, 1000)):
        here = OPS.directions(num, dim, distribution=distribution, seed=-3, device="cuda").cpu()
        there = OPS.directions(num, dim, distribution=distribution, seed=-3)
        if distribution == "rademacher":
            assert torch.equal(here, there)
        assert torch.allclose(here, there, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", register.OPERATORS)
def test_opcheck(name):
    """In float32; test_gpu_operators has bfloat16."""
    arguments, options = operator_calls(torch.float32)[name]
    if name == "directions":
        options = {**options, "device": "cuda"}
    result = torch.library.opcheck(getattr(OPS, name).default, cuda(arguments), cuda(options))
    assert set(result.values()) == {"SUCCESS"}


def test_kernels_started_ahead_give_the_same_bits(monkeypatch):
    """Their tokens are made behind a long product, and unmade after it: who is early reads NaN."""
    _, (x, *layers) = gpu_projector(577, d=160, hidden=712, out=520, dtype=torch.bfloat16)
    metric, u = OPS.fold_metric(layers[0], layers[2]), OPS.directions(5, 160, device="cuda")
    large = torch.randn(4096, 4096, device="cuda").bfloat16()
    larger = torch.empty_like(large)

    def call():
        torch.mm(large, large, out=larger)
        tokens = x.clone()
        picked = OPS.project_and_select(tokens, *layers, 64, metric=metric)
        scores = OPS.sensitivity(tokens, *layers[:3], u, step=0.01)
        tokens.fill_(torch.nan)
        return *picked, scores

    want = call()
    monkeypatch.setattr(environment, "dependent_launches", True)
    for _ in range(20):
        assert all(map(torch.equal, call(), want))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for _ in range(20):
        for out in captured:
            out.fill_(-1)
        graph.replay()
        assert all(map(torch.equal, captured, want))


def test_calls_made_alike_see_what_is_new(monkeypatch):
    """The same memory with new tokens, new memory, and other sizes at the same place."""
    p, (x, *layers) = gpu_projector(577, d=160, hidden=712, out=520, dtype=torch.bfloat16)
    metric = OPS.fold_metric(layers[0], layers[2])
    for number in range(16):
        x.copy_(torch.randn_like(p.x))
        tokens = (x, x.clone(), x[:300], x[8:])[number % 4]
        got = OPS.expected_sensitivity(tokens, *layers[:2], metric)
        with monkeypatch.context() as looking:
            looking.setattr(launch, "hooked", lambda: True)  # the long way
            want = OPS.expected_sensitivity(tokens, *layers[:2], metric)
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_image_does_not_depend_on_its_batch(dtype):
    _, (x, *layers) = gpu_projector(3, 577, d=160, hidden=712, out=520, dtype=dtype)
    metric = OPS.fold_metric(layers[0], layers[2])
    for options in ({"metric": metric}, {"num_directions": 5, "seed": 2}):
        together = OPS.project_and_select(x, *layers, 64, **options)
        again = OPS.project_and_select(x, *layers, 64, **options)
        for b in range(3):
            alone = OPS.project_and_select(x[b], *layers, 64, **options)
            for one, all_, repeated in zip(alone, together, again, strict=True):
                assert torch.equal(one, all_[b])
                assert torch.equal(all_, repeated)


@pytest.mark.parametrize("closed_form", [True, False])
def test_graph_replays_with_new_inputs(closed_form):
    p, layers = gpu_projector(2, 577, d=160, hidden=712, out=520, dtype=torch.bfloat16)
    options = (
        {"metric": OPS.fold_metric(layers[1], layers[3])} if closed_form else {"num_directions": 5}
    )

    def call():
        return OPS.project_and_select(*layers, 64, **options)

    call()  # kernels are compiled before the capture
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):
            captured = call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(2):
        layers[0].copy_(torch.randn_like(p.x))
        for out in captured:
            out.fill_(-1)
        graph.replay()
        for got, want in zip(captured, call(), strict=True):
            assert torch.equal(got, want)


def test_any_stream():
    _, layers = gpu_projector(577, d=160, hidden=712, out=520)
    want = OPS.score_and_select(*layers, 64, num_directions=3)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = OPS.score_and_select(*layers, 64, num_directions=3)
    stream.synchronize()
    for ours, theirs in zip(got, want, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_any_device():
    _, layers = gpu_projector(63)
    want = OPS.score_and_select(*layers, 8)
    got = OPS.score_and_select(*(tensor.to("cuda:1") for tensor in layers), 8)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.device.index == 1
        assert torch.equal(ours.cpu(), theirs.cpu())


def same_in_a_graph(function, *arguments):
    """Compiled into a CUDA graph: warmed up, captured, replayed."""
    compiled = torch.compile(function, fullgraph=True, mode="reduce-overhead")
    want = function(*arguments)
    for _ in range(3):
        got = [out.clone() for out in compiled(*arguments)]
    for ours, theirs in zip(got, want, strict=True):
        assert torch.equal(ours, theirs)


def test_compiles_with_reduced_overhead():
    _, layers = gpu_projector(2, 63, d=160, hidden=712, out=520, dtype=torch.bfloat16)
    u = OPS.directions(5, 160, seed=3, device="cuda")

    def prune(*layers):
        return OPS.sensitivity(*layers[:4], u), *OPS.project_and_select(*layers, 8, u)

    same_in_a_graph(prune, *layers)


def test_directions_compiles_with_reduced_overhead():
    """``orthogonal`` aside: a QR factorisation is the library's, which may not be captured."""
    same_in_a_graph(lambda: [OPS.directions(5, 160, seed=3, device="cuda")])


def test_errors_are_those_of_the_cpu():
    p, layers = gpu_projector(63)
    for arguments in (p.layers, layers):
        with pytest.raises(RuntimeError, match="zoprune::score_and_select: k: expected"):
            OPS.score_and_select(*arguments, 64)
