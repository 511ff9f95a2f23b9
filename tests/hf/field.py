"""What the tests of situations from the field share.

The base is a tiny LLaVA, a prompt of 21 columns with one image of 16 tokens, 6 of them kept: 11.
"""

import inspect

import torch
import transformers
import zoprune

from tests.hf.hand_pruned import hand_pruned, logits_of
from tests.hf.models import CASES

BY_NAME = {case.name: case for case in CASES}
CASE = BY_NAME["llava"]
GREEDY = dict(max_new_tokens=5, do_sample=False)
V4 = transformers.__version__ < "5"
V24 = "cache" in inspect.signature(transformers.LlavaModel.forward).parameters
CACHE = "cache" if V24 else "past_key_values"


def cache_of(output):
    return output[CACHE]


def hand_logits(model, inputs, case=CASE, positions="compact"):
    """Of a pruned model that was called: the logits [L', V] of each row, pruned by hand."""
    kept = zoprune.report(model).kept
    zoprune.restore(model)
    return [logits_of(model, row) for row in hand_pruned(case, model, inputs, kept, positions)]


def next_turn(sequences):
    longer = torch.cat([sequences, torch.tensor([[7, 8, 9]])], dim=1)
    return {"input_ids": longer, "attention_mask": torch.ones_like(longer)}


@torch.no_grad()
def scores_of(model, inputs):
    model(**inputs)
    return zoprune.report(model).scores[0]


def hooks_of(model):
    """The hooks that are not those of transformers."""
    hooks = [
        f
        for m in model.modules()
        for f in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())
    ]
    return [f for f in hooks if not f.__module__.startswith("transformers")]


def projector_of(model):
    return model.model.multi_modal_projector
