"""Situations from the field: pictures and reports (rows 19, 28, 29b)."""

import asyncio

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402

from tests.hf.field import BY_NAME, GREEDY  # noqa: E402
from tests.hf.models import IMAGE, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 500), (500, 1), (30, 60)])
def test_a_picture_of_a_thin_image(size):
    case = BY_NAME["llava_next"]
    model = make(case)
    ids = prompt(case, model)["input_ids"]
    inputs = {"pixel_values": torch.randn(1, 5, 3, 28, 28), "image_sizes": torch.tensor([size])}
    features = model.model.get_image_features(**inputs)
    tokens = len(getattr(features, "pooler_output", features)[0])
    inputs["input_ids"] = torch.tensor([[3, *[case.placeholder] * tokens, *ids[0, -2:].tolist()]])
    zoprune.prune(model, 4)
    model(**inputs)
    pytest.importorskip("PIL")
    assert zoprune.report(model).picture().width > 1


@torch.no_grad()
def test_an_odd_grid_of_patches():
    case = BY_NAME["mistral3"]
    model = make(case)
    pixels = torch.randn(1, 3, 35, 49)  # 5 x 7 patches, 2 x 3 tokens
    ids = torch.tensor([[3, *[IMAGE] * 6, 4, 5]])
    inputs = dict(input_ids=ids, pixel_values=pixels, image_sizes=torch.tensor([[35, 49]]))
    expected = model(**inputs).logits
    zoprune.prune(model, 1.0)
    torch.testing.assert_close(model(**inputs).logits, expected)
    zoprune.prune(model, 4)
    assert model(**inputs).logits.shape[1] == 7


def test_a_report_of_a_call_in_another_thread(model, inputs):
    zoprune.prune(model, 6)

    @torch.no_grad()
    def call(keep):
        with zoprune.keep(keep):
            return model(**inputs)

    async def main():
        call(3)
        output = await asyncio.to_thread(call, 5)
        assert str(zoprune.report(output)) == "5 of 16"
        with pytest.raises(RuntimeError, match="another thread or task"):
            zoprune.report(model)
        call(2)
        assert str(zoprune.report(model)) == "2 of 16"
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, call, 4)
        with pytest.raises(RuntimeError, match="another thread or task"):
            zoprune.report(model)

    asyncio.run(main())


@torch.no_grad()
def test_a_report_of_an_output(model, inputs):
    zoprune.prune(model, 6)
    outputs = [model(**inputs), model.generate(**inputs, **GREEDY)]
    with zoprune.keep(3):
        model(**inputs)
    for output in outputs:
        assert str(zoprune.report(output)) == "6 of 16"
