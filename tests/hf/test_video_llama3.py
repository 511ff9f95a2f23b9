"""VideoLLaMA 3: videos of which the processor's own compression has dropped tokens."""

import pytest
import torch

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune
from zoprune.hf.compat import core_of
from zoprune.hf.settings import pruning_of

from tests.hf import hand_pruned
from tests.hf.mlp_models import VIDEO
from tests.hf.models import CASES, make, prompt

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def compressed():
    """(model, inputs, mask): of two videos of 12 tokens, the second keeps 7."""
    (case,) = [c for c in CASES if c.name == "video_llama3-video"]
    model = make(case)
    inputs = prompt(case, model, (2,))
    mask = inputs["video_compression_mask"]
    mask[12:17] = False
    gone = (inputs["input_ids"][0] == VIDEO).nonzero()[12:17, 0]
    kept = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    kept[gone] = False
    for name in ("input_ids", "attention_mask"):
        inputs[name] = inputs[name][:, kept]
    return model, inputs, mask


@torch.no_grad()
def test_all_tokens_and_some_of_what_is_left(compressed):
    model, inputs, mask = compressed
    full = model(**inputs).logits
    zoprune.prune(model, 1.0)
    torch.testing.assert_close(model(**inputs).logits, full, atol=1e-5, rtol=1e-5)
    zoprune.prune(model, 4)
    settings, core = pruning_of(model), core_of(model)
    tokens = settings.family.encode(core, inputs, "video")
    outputs = settings.projector(core).project(tokens.x)  # scores are of the right tokens
    torch.testing.assert_close(outputs, torch.cat(tokens.features), atol=1e-5, rtol=1e-4)
    logits = model(**inputs).logits
    report = zoprune.report(model)
    assert report.tokens == [12, len(mask) - 17] and [len(k) for k in report.kept] == [4, 4]
    assert logits.shape[1] == full.shape[1] - sum(report.tokens) + 8
    answer = model.generate(**inputs, max_new_tokens=2, do_sample=False)[:, -2:]
    assert answer[0, 0] == logits[0, -1].argmax()
    zoprune.restore(model)
    features = core_of(model).get_video_features(
        **{k: v for k, v in inputs.items() if k.startswith(("pixel", "video_grid", "video_merge"))}
    )
    held = [
        f[m] for f, m in zip(features.pooler_output, mask.split([12, len(mask) - 12]), strict=True)
    ]
    expected = oracle(model, inputs, held, report.kept)
    torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=1e-4)


def oracle(model, inputs, features, kept):
    """The language model alone on the embeddings that remain, token by token."""
    rows, seen, video = [], 0, 0
    for token in inputs["input_ids"][0]:
        if token != VIDEO:
            rows.append(model.get_input_embeddings()(token))
            continue
        if seen in kept[video].tolist():
            rows.append(features[video][seen])
        seen += 1
        if seen == len(features[video]):
            seen, video = 0, video + 1
    embeds = torch.stack(rows)[None]
    return hand_pruned.logits_of(
        model, {"inputs_embeds": embeds, "position_ids": torch.arange(len(rows))[None]}
    )


@torch.no_grad()
def test_what_needs_whole_frames_is_refused(compressed):
    model, inputs, _ = compressed
    zoprune.prune(model, 4)
    model(**inputs)
    with pytest.raises(ValueError, match="picture: expected a video of whole frames"):
        zoprune.report(model).picture(0)
    zoprune.prune(model, 4, video="evs")
    assert pruning_of(model).video == "evs"
    with pytest.raises(ValueError, match="video: expected None for videos of which parts"):
        model(**inputs)
