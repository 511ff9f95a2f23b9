"""A tiny LLaVA, its prompt of 21 columns, and what it gives with 6 of 16 image tokens."""

import copy

import pytest
import torch
import zoprune

from tests.hf.models import CASES, IMAGE, make, prompt

CASE = CASES[0]


class Tiny:
    """An unpruned model to copy, its inputs and its results with 6 tokens kept."""

    def __init__(self):
        self.greedy = dict(max_new_tokens=4, do_sample=False)
        self.model = make(CASE)
        self.inputs = prompt(CASE, self.model, (1,))
        self.labels = self.inputs["input_ids"].masked_fill(self.inputs["input_ids"] == IMAGE, -100)
        self.pruned = zoprune.prune(copy.deepcopy(self.model), 6)
        with torch.no_grad():
            self.logits = self.pruned(**self.inputs).logits
            self.kept = zoprune.report(self.pruned).kept[0]
            self.scores = zoprune.report(self.pruned).scores[0]
            self.answer = self.pruned.generate(**self.inputs, **self.greedy)
            self.loss = self.pruned(**self.inputs, labels=self.labels).loss

    def copy(self):
        return copy.deepcopy(self.model)

    @torch.no_grad()
    def scores_of(self, model):
        assert model(**self.inputs).logits.shape[1] == 11
        return zoprune.report(model).scores[0]

    @torch.no_grad()
    def check(self, model):
        """It is pruned, and gives what the plain model gives."""
        torch.testing.assert_close(model(**self.inputs).logits, self.logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(zoprune.report(model).kept[0], self.kept)
        assert torch.equal(model.generate(**self.inputs, **self.greedy), self.answer)


@pytest.fixture(scope="session")
def tiny():
    return Tiny()
