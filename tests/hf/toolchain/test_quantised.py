"""torchao and bitsandbytes: scores of the dequantised weights."""

import copy

import pytest
import torch
import zoprune
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")
REASON = "pip install 'zoprune_kernels[toolchain]'"


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("method", ["sads", "maxmin"])
def test_torchao_weights_of_one_byte(tiny, whole, order, method):
    quantization = pytest.importorskip("torchao.quantization", reason=REASON)
    model = tiny.copy()
    if order == "after":
        zoprune.prune(model, 6, method=method)
        tiny.scores_of(model)
    part = model if whole else model.model.multi_modal_projector
    quantization.quantize_(part, quantization.Int8WeightOnlyConfig())
    if order == "before":
        zoprune.prune(model, 6, method=method)
    plain = zoprune.restore(copy.deepcopy(model))
    for name in ("linear_1", "linear_2"):
        packed = getattr(model.model.multi_modal_projector, name)
        assert type(packed.weight.data) is not torch.Tensor
        layer = nn.Linear(packed.in_features, packed.out_features)
        layer.weight.data.copy_(packed.weight.dequantize())
        layer.bias.data.copy_(packed.bias)
        setattr(plain.model.multi_modal_projector, name, layer)
    zoprune.prune(plain, 6, method=method)
    expected = tiny.scores_of(plain)
    torch.testing.assert_close(tiny.scores_of(model), expected, rtol=1e-3, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_bitsandbytes(kind):
    bnb = pytest.importorskip("bitsandbytes", reason=REASON)
    plain = nn.Sequential(nn.Linear(128, 192), nn.GELU(), nn.Linear(192, 128))
    packed = copy.deepcopy(plain)
    for index in (0, 2):
        old = plain[index]
        sizes = old.in_features, old.out_features
        if kind == "int8":
            new = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
        else:
            new = bnb.nn.Linear4bit(*sizes, compute_dtype=torch.float32, quant_type=kind)
        new.load_state_dict(old.state_dict())
        packed[index] = new.to("cpu")
        if kind != "int8":
            weight = bnb.functional.dequantize_4bit(new.weight.data, new.weight.quant_state)
            old.weight.data.copy_(weight)
    x = torch.randn(40, 128)
    scores = []
    for mlp in (packed, plain):
        pruned = zoprune.PrunedProjector(mlp, 6)
        pruned(x)
        scores.append(zoprune.report(pruned).scores[0])
    torch.testing.assert_close(*scores, rtol=0.02, atol=0)
