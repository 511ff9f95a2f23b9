"""Pruned models on a GPU: every family against its hand-pruned self on the CPU, training, FSDP2."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")

import zoprune
from torch.distributed import fsdp
from zoprune.hf.settings import pruning_of

from tests.hf.hand_pruned import hand_pruned, logits_of
from tests.hf.models import CASES, make, prompt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICE = "cuda"
LLAVA = CASES[0]


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    """Patch embeddings are convolutions, which torch rounds to TF32 on a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def on_gpu(inputs):
    return {name: value.to(DEVICE) for name, value in inputs.items()}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_are_those_of_hand_pruned_embeddings_on_the_cpu(case):
    model = make(case)
    inputs = prompt(case, model, (2, 1))
    pruned = zoprune.prune(copy.deepcopy(model).to(DEVICE), 5)
    logits = pruned(**on_gpu(inputs)).logits.cpu()
    kept = zoprune.report(pruned).kept
    ids = pruned.generate(**on_gpu(inputs), max_new_tokens=2, do_sample=False)
    assert all(torch.equal(a, b) for a, b in zip(zoprune.report(pruned).kept, kept, strict=True))
    positions = pruning_of(pruned).positions
    hand = hand_pruned(case, model, inputs, [image.cpu() for image in kept], positions)
    for row, expected in enumerate(logits_of(model, row) for row in hand):
        found = logits[row, -len(expected) :]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        assert ids[row, inputs["input_ids"].shape[1]] == found[-1].argmax()


def test_gradients_are_those_of_the_cpu():
    model = make(LLAVA)
    inputs = prompt(LLAVA, model, (1, 1))
    inputs["labels"] = inputs["input_ids"].clone()
    pruned = zoprune.prune(copy.deepcopy(model).to(DEVICE), 5)
    pruned(**on_gpu(inputs)).loss.backward()
    zoprune.prune(model, 5)
    model(**inputs).loss.backward()
    pairs = zip(pruned.named_parameters(), model.parameters(), strict=True)
    grads = {name: (p.grad.cpu(), q.grad) for (name, p), q in pairs if q.grad is not None}
    largest = max(theirs.norm() for _, theirs in grads.values())
    for name, (ours, theirs) in grads.items():  # some are zero but for rounding
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6 * largest, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", ["shard first", "prune first"])
def test_sharded_by_fsdp2(order, tmp_path):
    torch.distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        model = make(LLAVA).to(DEVICE)
        inputs = on_gpu(prompt(LLAVA, model, (2, 1)))
        reference = zoprune.prune(copy.deepcopy(model), 5)
        inputs["labels"] = inputs["input_ids"].clone()
        if order == "prune first":
            zoprune.prune(model, 5)
        for unit in (model.model.multi_modal_projector, model):
            fsdp.fully_shard(unit)
        if order == "shard first":
            zoprune.prune(model, 5)
        expected, got = reference(**inputs), model(**inputs)
        torch.testing.assert_close(got.logits, expected.logits)
        expected.loss.backward()
        got.loss.backward()
        of_lm, of_sharded = (m.lm_head.weight.grad for m in (reference, model))
        torch.testing.assert_close(of_sharded.full_tensor(), of_lm)
    finally:
        torch.distributed.destroy_process_group()
