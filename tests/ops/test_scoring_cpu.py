"""The CPU's scoring kernels against float64, at odd sizes, on every instruction set."""

import pytest
import torch

from tests.test_build import python
from zoprune_kernels import backend, reference
from zoprune_kernels.checks import ACTIVATIONS
from zoprune_kernels.operators.fold_metric import metric_dtype
from zoprune_kernels.testing import DTYPES, TinyProjector, fallback, projector, refusals

OPS = torch.ops.zoprune
SCORING = ["sensitivity", "fold_metric", "expected_sensitivity"]
PRUNING = [f"{verb}_and_select{twin}" for verb in ("score", "project") for twin in ("", "_varlen")]
# Half precision: the largest error that the design allows; measured ones are in docs/cpu.md.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-3}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error of a score, relative to it; a tenth of the mean is the least to count.

    Where few hidden units make a score, it can be arbitrarily close to zero.
    """
    scale = expected.abs().clamp_min(0.1 * float(expected.abs().mean()))
    return float(((actual.double() - expected).abs() / scale).max())


def expected_scores(p: TinyProjector, directions: torch.Tensor, step: float, activation: str):
    """Of the same rounded inputs, in float64, as the paper writes them."""
    x, w1, b1, w2, _ = p.double().layers
    form = reference.paper_sensitivity if step > 0 else reference.sensitivity
    return form(x, w1, b1, w2, directions.double(), step=step, activation=activation)


def check_scores(
    p: TinyProjector, activation: str, step: float, num: int = 5, tolerance: float | None = None
) -> None:
    """sensitivity, fold_metric and expected_sensitivity of one projector."""
    dtype = p.x.dtype
    tolerance = tolerance or TOLERANCE[dtype]
    x, w1, b1, w2, _ = p.layers
    directions = OPS.directions(num, x.shape[-1], seed=3)
    scores = OPS.sensitivity(x, w1, b1, w2, directions, step=step, activation=activation)
    assert scores.dtype == torch.float32
    expected = expected_scores(p, directions, step, activation)
    assert relative_error(scores, expected) <= tolerance

    metric = OPS.fold_metric(w1, w2, directions)
    exact = reference.fold_metric(w1.double(), w2.double(), directions.double())
    assert metric.dtype == metric_dtype(dtype) and torch.equal(metric, metric.T)
    # fp32 accumulation, then one rounding to bf16
    bound = 1e-5 if dtype == torch.float32 else 2**-8
    assert (metric.double() - exact).abs().max() <= bound * exact.abs().max()

    scores = OPS.expected_sensitivity(x, w1, b1, metric, activation=activation)
    expected = reference.expected_sensitivity(
        *p.double().first_layer, metric.double(), activation=activation
    )
    assert relative_error(scores, expected) <= tolerance


def test_native_kernels_are_the_ones_tested():
    for op in SCORING + PRUNING:
        assert backend.candidates(op, "cpu")[0] == ("cpu", None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("step", [0.0, 0.01, 0.1, 1.0])
def test_activations_and_steps(activation, step, dtype):
    check_scores(projector(63, d=33, hidden=65, out=41, dtype=dtype), activation, step)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "tokens, d, hidden, out, bias",
    [
        (1, 1, 1, 1, True),
        (63, 1, 7, 3, False),
        (577, 31, 129, 1, True),
        (1000, 17, 1, 33, False),
        (1025, 8, 40, 24, True),  # two blocks of tokens
        (577, 63, 1057, 1025, True),  # the smallest size with bf16 products; odd blocks
        (5, 1000, 2500, 63, False),
    ],
)
def test_sizes(tokens, d, hidden, out, bias, dtype):
    p = projector(tokens, d=d, hidden=hidden, out=out, bias=bias, dtype=dtype)
    check_scores(p, "gelu", 0.01, num=66 if hidden == 7 else 3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_few_strong_hidden_units(dtype):
    """Roundings to bf16 average out less where few hidden units carry the score (docs/cpu.md)."""
    p = projector(200, d=64, hidden=1024, out=1024, dtype=dtype)
    p.w2[:, :16] *= 32
    check_scores(p, "gelu", 0.01, num=8, tolerance=1e-5 if dtype == torch.float32 else 4e-3)


def test_long_steps_switch_per_direction():
    """One direction by the series, one by the difference, in the same call."""
    p = projector(63)
    directions = torch.randn(2, 32) * torch.tensor([[1e-3], [30.0]])
    scores = OPS.sensitivity(p.x, p.w1, p.b1, p.w2, directions, step=0.1)
    assert relative_error(scores, expected_scores(p, directions, 0.1, "gelu")) <= 1e-5
    apart = [OPS.sensitivity(p.x, p.w1, p.b1, p.w2, u[None], step=0.1) for u in directions]
    torch.testing.assert_close(scores, (apart[0] + apart[1]) / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("step", [1e-18, 1e-12, 1e-7, 1e6, 1e18])
def test_steps_of_all_magnitudes(step, activation):
    """Small ones against the limit, large ones against float64; relu's corner is half."""
    p = projector(63)
    p.x[5], p.b1 = 0, None
    directions = OPS.directions(3, 32)
    options = {"step": step, "activation": activation}
    scores = OPS.sensitivity(*p.layers[:4], directions, **options)
    limit = step if step > 1 else 0.0
    expected = expected_scores(p, directions, limit, activation)
    if activation == "relu" and step < 1:  # phi(h v) - phi(-h v) = h v, half of identity's 2 h v
        expected[5] = expected_scores(p, directions, 1.0, "identity")[5] / 2
    assert relative_error(scores, expected) <= 2e-5
    again = fallback.sensitivity(*p.layers[:4], directions, **options)
    assert relative_error(again, expected) <= 2e-5


@pytest.mark.parametrize("activation", ACTIVATIONS[:4])
@pytest.mark.parametrize("size", [1e3, 1e7, 1e12, 1e30])
def test_large_activations_do_not_cancel(size, activation):
    """There phi is 0 or the identity: a score is the mean norm of W2 v over the open units."""
    p = projector(33, bias=False)
    x, directions = torch.sign(p.x) * size, OPS.directions(5, 32)
    p.w1[:] = torch.eye(64, 32) + torch.eye(64, 32).roll(32, 0)  # a is x, twice
    v = directions.double() @ p.w1.double().T
    opened = (x @ p.w1.T > 0).double()
    changes = (opened[:, None] * v) @ p.w2.double().T  # [N, m, D]
    expected = changes.norm(dim=-1).mean(1)
    metric = OPS.fold_metric(p.w1, p.w2, directions)
    root_mean_square = changes.square().sum(-1).mean(1).sqrt()
    for ops in (OPS, fallback):
        for step in (0.0, 0.01, 1.0, 100.0):
            options = {"step": step, "activation": activation}
            scores = ops.sensitivity(x, p.w1, None, p.w2, directions, **options)
            assert relative_error(scores, expected) <= 1e-5, step
        scores = ops.expected_sensitivity(x, p.w1, None, metric, activation=activation)
        assert relative_error(scores, root_mean_square) <= 1e-5


def test_the_longest_step_of_a_linear_projector():
    p, directions = projector(3), OPS.directions(3, 32) * 100
    for ops in (OPS, fallback):
        scores = [
            ops.sensitivity(*p.layers[:4], directions, step=step, activation="identity")
            for step in (0.0, 1e18)
        ]
        assert torch.equal(*scores) and scores[0].isfinite().all()


def images(dtype: torch.dtype, hidden: int = 64):
    """Three equal images, the operators that score or prune them, and their packed form."""
    p = projector(3, 70, hidden=hidden, out=1030 if hidden > 1000 else 48, dtype=dtype)
    metric = OPS.fold_metric(p.w1, p.w2)
    directions = OPS.directions(3, 32)
    cu_tokens = torch.tensor([0, 70, 140, 210], dtype=torch.int32)
    cu_keep = torch.tensor([0, 9, 18, 27], dtype=torch.int32)
    return p, metric, directions, (cu_tokens, cu_keep, 27)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [64, 1100])
def test_an_image_does_not_depend_on_its_batch(dtype, hidden):
    p, metric, directions, packing = images(dtype, hidden)
    x, *layers = p.layers
    options = {"max_similarity": 0.9}
    for chosen in (
        {"metric": metric},
        {"directions": directions},
        {"num_directions": 2, "seed": 7},
    ):
        batch = OPS.project_and_select(x, *layers, 9, **chosen, **options)
        again = OPS.project_and_select(x, *layers, 9, **chosen, **options)
        packed = OPS.project_and_select_varlen(
            x.flatten(0, 1), *layers, *packing, **chosen, **options
        )
        for a, b in zip(batch, again, strict=True):
            assert torch.equal(a, b)
        for i in range(3):
            alone = OPS.project_and_select(x[i], *layers, 9, **chosen, **options)
            for a, b in zip(batch, alone, strict=True):
                assert torch.equal(a[i], b)
            assert torch.equal(packed[0].view(3, 9, -1)[i], alone[0])
            assert torch.equal(packed[1].view(3, 9)[i], alone[1] + 70 * i)
            assert torch.equal(packed[2].view(3, 70)[i], alone[2])
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                OPS.score_and_select(x, *layers, 9, **chosen, **options), batch[1:], strict=True
            )
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [64, 1100])
@pytest.mark.parametrize("method", ["sads", "topk"])
def test_pruning_is_its_parts(dtype, hidden, method):
    """Scores, selection by the projector's outputs, and the outputs at the picks."""
    p, metric, _, _ = images(dtype, hidden)
    arguments = (*p.layers, 9)
    tokens, indices, scores = OPS.project_and_select(*arguments, metric=metric, method=method)
    assert torch.equal(scores, OPS.expected_sensitivity(*p.first_layer, metric))
    outputs = reference.project(*p.double().layers, "gelu")  # [3, 70, D]
    kept = outputs.take_along_dim(indices[..., None], dim=1)
    assert tokens.dtype == dtype
    bound = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert (tokens.double() - kept).abs().max() <= bound * kept.abs().max()
    if dtype == torch.float32 and hidden == 64:
        assert torch.equal(indices, OPS.select(scores, outputs.float(), 9, method=method))
    keys = torch.randn(3, 70, 5)
    by_keys = OPS.score_and_select(*arguments, metric=metric, keys=keys, method=method)
    assert torch.equal(by_keys[0], OPS.select(scores, keys, 9, method=method))


def test_pruning_matches_the_fallback():
    p, metric, directions, packing = images(torch.float32)
    packed = (p.x.flatten(0, 1), *p.layers[1:], *packing)
    for options in (
        {"metric": metric},
        {"directions": directions, "step": 0.0, "sort": False},
        {"num_directions": 4, "distribution": "orthogonal", "seed": 5, "method": "maxmin"},
        {"metric": metric, "method": "random", "seed": 11},
        {"metric": metric, "method": "topk", "max_similarity": 0.3},
        {"metric": metric, "method": "mmr", "tradeoff": 0.3, "num_seed": 2},
        {"metric": metric, "first": "isolated", "centre": True, "picks_per_step": 3},
    ):
        for op in PRUNING:
            arguments = packed if op.endswith("varlen") else (*p.layers, 9)
            actual = getattr(OPS, op)(*arguments, **options)
            expected = getattr(fallback, op)(*arguments, **options)
            for a, b in zip(actual, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_non_contiguous_inputs():
    p = projector(2, 63)
    directions = OPS.directions(3, 32)

    def strided(t: torch.Tensor) -> torch.Tensor:
        return torch.stack([t, t], dim=-1)[..., 0]

    x, w1, b1, w2, b2 = map(strided, p.layers)
    assert not x.is_contiguous()
    assert torch.equal(OPS.fold_metric(w1, w2), OPS.fold_metric(p.w1, p.w2))
    metric = OPS.fold_metric(p.w1, p.w2)
    torch.testing.assert_close(
        OPS.expected_sensitivity(x, w1, b1, strided(metric)),
        OPS.expected_sensitivity(*p.first_layer, metric),
    )
    assert torch.equal(
        OPS.sensitivity(x, w1, b1, w2, strided(directions)),
        OPS.sensitivity(*p.layers[:4], directions),
    )
    kept = OPS.project_and_select(x, w1, b1, w2, b2, 5)
    for a, b in zip(kept, OPS.project_and_select(*p.layers, 5), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d, hidden", [(32, 64), (33, 65), (31, 1100), (17, 1057)])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_nan_and_inf_stay_in_their_token(activation, d, hidden, dtype):
    """Also where a product's kernel reads rows by whole cache lines, as AMX does: operands end with
    whole lines, which product() insists on everywhere, and unwritten ones hold NaN in tests."""
    p = projector(63, d=d, hidden=hidden, out=hidden, dtype=dtype)
    metric = OPS.fold_metric(p.w1, p.w2)
    directions = OPS.directions(3, d)

    def results(x):
        project = {"directions": directions, "activation": activation}
        outputs, _, again = OPS.project_and_select(x, *p.layers[1:], 63, **project)
        scores = OPS.sensitivity(x, *p.layers[1:4], directions, activation=activation)
        assert torch.equal(scores.nan_to_num(-1), again.nan_to_num(-1))
        expected = OPS.expected_sensitivity(x, p.w1, p.b1, metric, activation=activation)
        return outputs, scores, expected

    spoiled = p.x.clone()
    # The last row too: behind it is memory that is nobody's.
    spoiled[7, 3], spoiled[40, 0], spoiled[41, d - 1] = float("nan"), float("inf"), -float("inf")
    spoiled[62, d - 1] = float("nan")
    rows = torch.tensor([7, 40, 41, 62])
    others = torch.ones(63, dtype=torch.bool).index_fill(0, rows, False)
    for good, bad in zip(results(p.x), results(spoiled), strict=True):
        assert good.isfinite().all() and torch.equal(good[others], bad[others])
        if bad.dim() == 1:
            assert bad[rows].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_in_a_weight_stays_in_its_row_of_the_metric(dtype):
    p = projector(1, d=33, hidden=67, out=35, dtype=dtype)
    directions = OPS.directions(5, 33)
    good = OPS.fold_metric(p.w1, p.w2), OPS.fold_metric(p.w1, p.w2, directions)
    p.w1[20, 32], p.w2[3, 40] = float("nan"), float("inf")
    bad = OPS.fold_metric(p.w1, p.w2), OPS.fold_metric(p.w1, p.w2, directions)
    others = torch.ones(67, dtype=torch.bool).index_fill(0, torch.tensor([20, 40]), False)
    for before, after in zip(good, bad, strict=True):
        assert torch.equal(before[others][:, others], after[others][:, others])
        assert after[20].isnan().all() and not after[40].isfinite().any()


def test_linear_projectors_score_alike_whatever_a_token_holds():
    p = projector(2, 63)
    spoiled = p.x.clone()
    spoiled[0, 0] = float("nan")
    scores = OPS.sensitivity(spoiled, *p.layers[1:4], OPS.directions(3, 32), activation="identity")
    assert scores.isfinite().all() and (scores == scores[0, 0]).all()


def test_autocast_changes_nothing():
    p = projector(63)
    metric = OPS.fold_metric(p.w1, p.w2)
    plain = OPS.project_and_select(*p.layers, 5, metric=metric)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            for a, b in zip(
                OPS.project_and_select(*p.layers, 5, metric=metric), plain, strict=True
            ):
                assert torch.equal(a, b)


def test_one_thread_and_two_are_right():
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            check_scores(projector(100, d=33, hidden=65, out=41), "gelu", 0.01)
    finally:
        torch.set_num_threads(threads)


def check_this_instruction_set() -> None:
    """For tests/ops/test_instruction_sets.py."""
    for dtype in DTYPES:
        for activation in ACTIVATIONS:
            step = 1.0 if dtype == torch.float16 else 0.01
            check_scores(projector(20, d=9, hidden=67, out=35, dtype=dtype), activation, step)
        check_scores(projector(20, d=9, hidden=1059, out=1027, dtype=dtype), "gelu", 0.01, num=2)
        test_nan_and_inf_stay_in_their_token("gelu", 33, 1057, dtype)


def test_memory_is_bounded_whatever_m():
    """LLaVA-1.5's projector with enough rows for the largest products; and many directions.

    Only the first layer's products grow with the tokens, by 8 MiB from 64 to 576 of them.
    """
    code = """if True:
        import torch
        from benchmarks.cpu.memory import peak_extra_mib
        from zoprune_kernels.testing import projector
        small = projector(65, d=8, hidden=8192, out=2)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            p = projector(64, d=1024, hidden=4096, out=4096, dtype=dtype)
            for q, num in ((small, 9), (p, 8), (small, 1000)):
                u = torch.ops.zoprune.directions(num, q.x.shape[1])
                print(peak_extra_mib(lambda: torch.ops.zoprune.sensitivity(*q.layers[:4], u)))
        """
    run = python(code, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0")
    assert run.returncode == 0, run.stderr
    extra = [float(line) for line in run.stdout.split()]
    assert len(extra) == 9 and max(extra) <= 64 - 8, extra


@pytest.mark.parametrize("op", SCORING + PRUNING)
def test_errors_have_the_fallbacks_text(op):
    refused = 0
    for arguments in (call.arguments for call in refusals([op])):
        try:
            getattr(fallback, op)(**arguments)
        except RuntimeError as error:
            with pytest.raises(RuntimeError) as raised:
                getattr(OPS, op)(**arguments)
            assert str(error) in str(raised.value)
            assert str(error).startswith(f"zoprune::{op}: ")
            refused += 1
    assert refused >= 8
