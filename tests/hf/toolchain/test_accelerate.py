"""accelerate: hooks, weights that are elsewhere between calls, mixed precision."""

import copy

import pytest
import torch
import zoprune

accelerate = pytest.importorskip("accelerate", reason="pip install 'zoprune_kernels[toolchain]'")
from accelerate.hooks import AlignDevicesHook, add_hook_to_module  # noqa: E402

from tests.hf.models import CASES, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = ["llava_next", "llava_onevision", "qwen2_5_vl", "mistral3", "gemma3"]
DISK = {
    "model.vision_tower": "cpu",
    "model.multi_modal_projector": "disk",
    "model.language_model": "disk",
    "lm_head": "cpu",
}


def align(model, folder):
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True))


def offload(model, folder):
    accelerate.cpu_offload(model, execution_device="cpu")


def to_disk(model, folder):
    accelerate.dispatch_model(model, DISK, main_device="cpu", offload_dir=folder)


@pytest.mark.parametrize("attach", [align, offload, to_disk])
@pytest.mark.parametrize("order", ["before", "after"])
def test_hooks_and_offloading_in_either_order(tiny, attach, order, tmp_path):
    model = tiny.copy()
    if order == "before":
        attach(model, tmp_path)
    zoprune.prune(model, 6)
    if order == "after":
        attach(model, tmp_path)
    tiny.check(model)
    zoprune.restore(model)
    assert model(**tiny.inputs).logits.shape[1] == 21


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["llava_next", "llava_onevision", "qwen2_5_vl", "mistral3", "gemma3"]
)
def test_offloaded_families(name):
    case = next(case for case in CASES if case.name == name)
    model = make(case)
    inputs = prompt(case, model)
    expected = zoprune.prune(copy.deepcopy(model), 3)(**inputs).logits
    accelerate.cpu_offload(model, execution_device="cpu")
    zoprune.prune(model, 3)
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_prepared_for_mixed_precision(tiny):
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model = accelerator.prepare(zoprune.prune(tiny.copy(), 6))
    assert model(**tiny.inputs).logits.shape[1] == 11
    assert str(zoprune.report(model)) == "6 of 16"
    inner = accelerator.unwrap_model(model)
    zoprune.restore(model)
    assert inner(**tiny.inputs).logits.shape[1] == 21
