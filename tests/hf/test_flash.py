"""Flash attention's stand-in is right: alone, and under models that are not pruned."""

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)
import zoprune  # noqa: E402
from transformers import modeling_flash_attention_utils as utils  # noqa: E402
from zoprune.hf import compat  # noqa: E402

from tests.hf import flash as hf_flash  # noqa: E402
from tests.hf.flash import FLASH, attention  # noqa: E402
from tests.hf.hand_pruned import attends_both_ways  # noqa: E402
from tests.hf.models import CASES, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
LAYOUTS = {"one": ((1,), "left"), "left": ((2, 1), "left"), "right": ((1, 2), "right")}


@pytest.mark.parametrize(
    "lengths", [(7, 7), (1, 9), (4, 9)], ids=lambda pair: f"{pair[0]}-{pair[1]}"
)
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_both_functions_are_attention(lengths, window, causal):
    queries, keys = lengths
    q = torch.randn(2, queries, 4, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, keys, 2, 8, dtype=torch.float64)
    ahead = torch.arange(keys) - torch.arange(queries)[:, None] - (keys - queries)
    seen = ahead <= 0 if causal else torch.ones_like(ahead, dtype=torch.bool)
    options = dict(causal=causal, softmax_scale=0.3)
    if window is not None:
        options["window_size"] = (window - 1, window - 1)
        seen = seen & (ahead.abs() < window)
    heads = (x.transpose(1, 2) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *heads, attn_mask=seen, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(hf_flash.flash_attn_func(q, k, v, **options), expected)
    ends = (torch.arange(3, dtype=torch.int32) * n for n in lengths)
    packed = (x.flatten(0, 1) for x in (q, k, v))
    output = hf_flash.flash_attn_varlen_func(*packed, *ends, *lengths, **options)
    torch.testing.assert_close(output, expected.flatten(0, 1))


def test_what_no_sequence_covers_is_not_a_number():
    q = torch.randn(5, 2, 8)
    ends = torch.tensor([0, 3], dtype=torch.int32)
    output = hf_flash.flash_attn_varlen_func(q, q, q, ends, ends, 2, 2)
    assert output.isnan().flatten(1).any(1).tolist() == [False, False, True, True, True]


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_models_give_what_they_give_with_sdpa(case, monkeypatch):
    if not case.flash:
        pytest.skip("tested with sdpa only")
    if case.name in ("pixtral", "mistral3", "lighton_ocr") and (5,) <= compat.VERSION < (5, 20):
        pytest.skip("Pixtral's tower gives something else with flash attention before 5.20")
    hf_flash.install(monkeypatch)
    model = make(case)
    greedy = dict(max_new_tokens=3, do_sample=False)
    for rows, padding in LAYOUTS.values():
        inputs = prompt(case, model, rows, padding)
        real = inputs["attention_mask"].bool()
        expected = model(**inputs).logits
        generated = model.generate(**inputs, **greedy) if padding == "left" else None
        with attention(model, FLASH):
            logits = model(**inputs).logits
            if attends_both_ways(case, model) != case.bidirectional:
                assert (logits - expected)[real].abs().max() > 0.1
                continue
            torch.testing.assert_close(logits[real], expected[real], atol=1e-4, rtol=1e-4)
            if generated is not None:
                assert torch.equal(model.generate(**inputs, **greedy), generated)


@torch.no_grad()
def test_positions_with_gaps_look_packed_and_are_one_sequence(monkeypatch):
    hf_flash.install(monkeypatch)
    packed, original = [], utils.prepare_fa_kwargs_from_position_ids

    def spy(position_ids):
        packed.append((position_ids.shape[1], original(position_ids)))
        return packed[-1][1]

    monkeypatch.setattr(utils, "prepare_fa_kwargs_from_position_ids", spy)
    model = make(CASES[0])
    inputs = prompt(CASES[0], model)
    with attention(model, FLASH):
        zoprune.prune(model, 5)(**inputs)
        assert not packed
        zoprune.prune(model, 5, positions="original")(**inputs)
    assert len(packed) == model.config.text_config.num_hidden_layers
    for length, ((ends, _), (longest, _)) in packed:
        assert ends.tolist() == [0, length] and longest == length
