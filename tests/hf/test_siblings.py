"""Architectures that share the code of another: logits and generation against the oracle."""

import pytest
import torch

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune
from zoprune.hf.settings import pruning_of

from tests.hf.hand_pruned import continued, hand_pruned, logits_of
from tests.hf.models import SIBLINGS, make, prompt

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
@pytest.mark.parametrize("case", SIBLINGS, ids=lambda case: case.name)
def test_all_tokens_and_some(case):
    model = make(case)
    inputs = prompt(case, model, (2, 1))
    real = inputs["attention_mask"].bool()
    full = model(**inputs).logits
    zoprune.prune(model, 1.0)
    torch.testing.assert_close(model(**inputs).logits[real], full[real], atol=1e-5, rtol=1e-5)
    zoprune.prune(model, 5)
    positions = pruning_of(model).positions
    logits = model(**inputs).logits
    greedy = dict(max_new_tokens=2, do_sample=False)
    answers = model.generate(**inputs, **greedy)[:, inputs["input_ids"].shape[1] :]
    kept = zoprune.report(model).kept
    zoprune.restore(model)
    for row, hand in enumerate(hand_pruned(case, model, inputs, kept, positions)):
        expected = logits_of(model, hand)
        torch.testing.assert_close(logits[row, -len(expected) :], expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(continued(model, hand, answers[row]).argmax(-1), answers[row])
