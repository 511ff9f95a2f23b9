"""Values in trailing columns arrive bit for bit, in every dtype of features."""

import pytest
import torch
from zoprune.vllm.columns import COLUMNS, from_columns, to_columns


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_float_arrives(dtype):
    values = torch.randint(-(2**31), 2**31 - 1, (10007,), dtype=torch.int32).view(torch.float32)
    special = torch.tensor([0.0, -0.0, 1e-45, 3e38, float("inf"), float("nan"), 1 / 3])
    values = torch.cat([values, special])
    columns = to_columns(values, dtype)
    assert columns.shape == (len(values), COLUMNS) and columns.dtype == dtype
    arrived = from_columns(columns, torch.float32)
    assert torch.equal(arrived.view(torch.int32), values.view(torch.int32))


def test_integers_and_shapes():
    values = torch.tensor([[0, 1, 32767 << 16], [255, 256, -1]], dtype=torch.int32)
    columns = to_columns(values, torch.bfloat16)
    assert columns.shape == (2, 3, COLUMNS)
    assert torch.equal(from_columns(columns[:, 1:], torch.int32), values[:, 1:])
