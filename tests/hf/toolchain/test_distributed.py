"""FSDP2 and tensor parallelism on two ranks: the logits and kept tokens of the whole model."""

import copy
import warnings

import pytest
import torch
import zoprune
from torch import nn
from torch.distributed import fsdp
from torch.distributed.tensor import parallel

from tests.hf.models import CASES, IMAGE, make, prompt
from tests.hf.toolchain.ranks import RANKS, Ranks

CASE = CASES[0]
GREEDY = dict(max_new_tokens=3, do_sample=False)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if not torch.distributed.is_available():
        pytest.skip("torch is built without torch.distributed")
    running = Ranks(tmp_path_factory.mktemp("ranks"))
    yield running
    running.end()


def plain():
    model = make(CASE)
    return model, prompt(CASE, model, (1,))


# -- what FSDP2 shards as units of their own ------------------------------------------------------


def nothing(model):
    return []


def projector(model):
    return [model.model.multi_modal_projector]


def linear_layers(model):
    return [m for m in model.model.multi_modal_projector.modules() if type(m) is nn.Linear]


def every_layer(model):  # transformers itself fails where the vision tower as such is a unit
    return [*(m for m in model.modules() if is_layer(m)), *projector(model)]


def is_layer(module):
    return type(module).__name__.endswith(("EncoderLayer", "DecoderLayer"))


def inner(model):
    return [*every_layer(model), model.model]


def shard(model, units, **options):
    for unit in units(model):
        fsdp.fully_shard(unit, **options)
    return fsdp.fully_shard(model, **options)


def policy(name):
    if name == "bf16":
        return dict(mp_policy=fsdp.MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    return dict(offload_policy=fsdp.CPUOffloadPolicy(pin_memory=False)) if name else {}


@torch.no_grad()
def results_of(model, inputs):
    """Logits, the kept tokens of ``forward`` and of ``generate``, and the answer."""
    logits = model(**inputs).logits.float()
    kept = [zoprune.report(model).kept[0]]
    answer = model.generate(**inputs, **GREEDY)
    return [logits, *kept, zoprune.report(model).kept[0], answer]


def sharded(rank, units, order, name, options):
    model, inputs = plain()
    reference = zoprune.prune(copy.deepcopy(model), 6, **options)
    if name == "bf16":
        reference.bfloat16()
    expected = results_of(reference, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="torch")
        if order == "shard first":
            shard(model, units, **policy(name))
        zoprune.prune(model, 6, **options)
        if order == "prune first":
            shard(model, units, **policy(name))
        got = results_of(model, inputs)
        again = results_of(model, inputs)
        zoprune.restore(model)
        with torch.no_grad():
            length = model(**inputs).logits.shape[1]
    assert length == 21 and isinstance(model, fsdp.FSDPModule)
    return expected, got, again


@pytest.mark.parametrize("order", ["shard first", "prune first"])
@pytest.mark.parametrize(
    ("units", "policy", "options"),
    [
        (nothing, None, {}),
        (projector, None, {}),
        (linear_layers, None, dict(estimator="directions", num_directions=8)),
        (every_layer, None, {}),
        (inner, None, dict(prompt_seeds=2)),
        (every_layer, "bf16", {}),
        (projector, "offload", {}),
    ],
)
def test_sharded_by_fsdp2(ranks, order, units, policy, options):
    results = ranks.run(sharded, units, order, policy, options)
    for expected, *calls in results:
        for got in calls:
            for theirs, ours in zip(expected, got, strict=True):
                close = dict(atol=0.1, rtol=0.1) if policy == "bf16" else dict(atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(ours, theirs, **close)
            assert torch.equal(got[1], expected[1]) and torch.equal(got[2], expected[1])
    assert all(map(torch.equal, results[0][1], results[1][1]))


def trained(rank, units):
    """A step of each rank on pictures of its own, then the scores of the new weights."""
    model = zoprune.prune(make(CASE).train(), 6)
    shard(model, units)
    torch.manual_seed(5 + rank)
    inputs = prompt(CASE, model, (1,) if rank else (2,))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    state = {name: t.full_tensor() for name, t in model.state_dict().items()}
    torch.manual_seed(9)
    inputs = prompt(CASE, model, (1,))
    with torch.no_grad():
        model.eval()(**inputs)
    return losses, state, inputs, zoprune.report(model).scores[0]


@pytest.mark.parametrize("units", [nothing, every_layer])
def test_training_with_fsdp2(ranks, units):
    results = ranks.run(trained, units)
    for losses, *_ in results:
        assert losses[1] < losses[0]
    (_, state, inputs, scores), (_, _, _, theirs) = results
    assert torch.equal(scores, theirs)
    model = make(CASE)
    model.load_state_dict(state)
    before = copy.deepcopy(model.model.multi_modal_projector.state_dict())
    assert any(not torch.equal(before[n], t) for n, t in parts_of(make(CASE)).items())
    zoprune.prune(model, 6)
    with torch.no_grad():
        model(**inputs)
    torch.testing.assert_close(zoprune.report(model).scores[0], scores, rtol=1e-4, atol=0)


def parts_of(model):
    return model.model.multi_modal_projector.state_dict()


def uneven(rank):
    """One rank has a picture, the other has text only: no rank may wait for the other."""
    model, inputs = plain()
    expected = zoprune.prune(copy.deepcopy(model), 6)
    shard(zoprune.prune(model, 6), nothing)
    if rank:
        inputs = {k: v for k, v in inputs.items() if k != "pixel_values"}
        inputs["input_ids"] = inputs["input_ids"] % 80
    with torch.no_grad():
        return expected(**inputs).logits, model(**inputs).logits


def test_a_rank_without_pictures(ranks):
    for expected, got in ranks.run(uneven):
        torch.testing.assert_close(got, expected)


def metric_file(rank, path):
    model, inputs = plain()
    shard(model, projector)
    zoprune.prune(model, 6, metric=path)
    torch.distributed.barrier()
    zoprune.prune(model, 6, metric=path)
    return results_of(model, inputs)


def test_a_metric_file_that_both_ranks_write(ranks, tmp_path):
    model, inputs = plain()
    expected = results_of(zoprune.prune(model, 6), inputs)
    for got in ranks.run(metric_file, tmp_path / "metric.safetensors"):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert len(list(tmp_path.iterdir())) == 1


# -- DistributedDataParallel and FullyShardedDataParallel ----------------------------------------


def replicated(rank, order):
    """Each rank on pictures of its own: its logits, and the gradient that both agree on."""
    model = make(CASE)
    torch.manual_seed(5 + rank)
    inputs = prompt(CASE, model, (1,))
    expected = results_of(zoprune.prune(copy.deepcopy(model), 6), inputs)
    if order == "prune first":
        zoprune.prune(model, 6)
    outer = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    if order == "wrap first":
        assert zoprune.prune(outer, 6) is outer
    output = outer(**inputs)
    output.logits.square().mean().backward()
    gradient = model.model.multi_modal_projector.linear_1.weight.grad.clone()
    assert str(zoprune.report(outer)) == "6 of 16"
    return expected[0], output.logits.detach(), gradient


@pytest.mark.parametrize("order", ["wrap first", "prune first"])
def test_distributed_data_parallel(ranks, order):
    results = ranks.run(replicated, order)
    for expected, got, _ in results:
        torch.testing.assert_close(got, expected)
    assert not torch.equal(results[0][1], results[1][1])
    assert torch.equal(results[0][2], results[1][2]) and results[0][2].abs().sum() > 0


def wrapped(rank, order, nested):
    model, inputs = plain()
    expected = results_of(zoprune.prune(copy.deepcopy(model), 6), inputs)
    if order == "prune first":
        zoprune.prune(model, 6)
    units = fsdp.wrap.ModuleWrapPolicy({type(model.model.multi_modal_projector)} if nested else {})
    outer = fsdp.FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), auto_wrap_policy=units
    )
    with torch.no_grad():
        try:
            if order == "shard first":
                zoprune.prune(outer, 6)
            return expected[0], outer(**inputs).logits
        except ValueError as error:
            return None, str(error)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("order", ["shard first", "prune first"])
@pytest.mark.filterwarnings("ignore")
def test_fully_sharded_data_parallel_works_or_is_refused(ranks, order, nested):
    for expected, got in ranks.run(wrapped, order, nested):
        if order == "prune first" and not nested:
            torch.testing.assert_close(got, expected)
        else:
            assert "that is here, got" in got and "Shard with fully_shard" in got


# -- tensor parallelism ---------------------------------------------------------------------------


def split(model, whole):
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (RANKS,))
    column, row = parallel.ColwiseParallel, parallel.RowwiseParallel
    for layer in model.model.language_model.layers:
        plan = {f"self_attn.{name}_proj": column() for name in "qkv"}
        plan |= {"mlp.gate_proj": column(), "mlp.up_proj": column(), "mlp.down_proj": row()}
        parallel.parallelize_module(layer, mesh, plan | {"self_attn.o_proj": row()})
    if whole:
        plan = {"linear_1": column(), "linear_2": row()}
        parallel.parallelize_module(model.model.multi_modal_projector, mesh, plan)
    return model


def tensor_parallel(rank, order, whole, options):
    model, inputs = plain()
    expected = results_of(zoprune.prune(copy.deepcopy(model), 6, **options), inputs)
    if order == "split first":
        split(model, whole)
    zoprune.prune(model, 6, **options)
    if order == "prune first":
        split(model, whole)
    got = results_of(model, inputs)
    return expected, got, results_of(model, inputs)


@pytest.mark.parametrize("order", ["split first", "prune first"])
@pytest.mark.parametrize(
    ("whole", "options"),
    [(False, {}), (True, {}), (True, dict(estimator="directions", num_directions=8))],
)
def test_tensor_parallel(ranks, order, whole, options):
    for expected, *calls in ranks.run(tensor_parallel, order, whole, options):
        for got in calls:
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def by_plan(rank, folder):
    import transformers

    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, tp_plan="auto")
    model.generation_config.eos_token_id = None
    is_split = any(hasattr(p, "full_tensor") for p in model.parameters())
    torch.manual_seed(3)
    inputs = prompt(CASE, model, (1,))
    return is_split, inputs, results_of(zoprune.prune(model.eval(), 6), inputs)


def test_the_tensor_parallel_plan_of_transformers(ranks, tmp_path):
    pytest.importorskip("accelerate", reason="pip install 'zoprune_kernels[toolchain]'")
    model = make(CASE)
    model.save_pretrained(tmp_path)
    for is_split, inputs, got in ranks.run(by_plan, tmp_path):
        expected = results_of(zoprune.prune(model, 6), inputs)
        assert is_split
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
