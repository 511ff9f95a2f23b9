"""Compiled models: ``generate`` with a static cache compiles the decoding step into one graph."""

import pytest
import torch
from packaging.version import Version
from torch._dynamo.utils import counters

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from zoprune.hf import compat  # noqa: E402

from tests.hf.models import OLDER, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
WINDOWS = ("mistral3", "gemma3")  # a sliding window's cache counts in Python: one graph more
# Their positions were compiled apart from 5.18 up to 5.22.
TWICE = ("qwen2_5_vl",) if (5, 18) <= compat.VERSION < (5, 23) else ()
# A video's decoding step is an image's, and SmolVLM's is that of Idefics 3. transformers 5 prepares
# the steps of all models by itself: one for each kind of positions will do.
STEPS = [c for c in OLDER if c.modality == "image" and c.name not in ("pixtral", "smolvlm")]
if Version(transformers.__version__) >= Version("5"):
    STEPS = [c for c in STEPS if c.name in ("llava", "qwen2_5_vl")]


@torch.no_grad()
@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.name)
def test_a_compiled_decoding_step_changes_nothing(case):
    torch._dynamo.reset()
    counters.clear()
    model = zoprune.prune(make(case), 5)
    greedy = dict(max_new_tokens=4, do_sample=False)
    step = transformers.CompileConfig(fullgraph=True, backend="eager", mode=None)
    step._compile_all_devices = True  # on a CPU too
    compiled = []
    for images in (2, 1):  # the second, shorter prompt finds room in the cache of the first
        inputs = prompt(case, model, (images,))
        expected = model.generate(**inputs, **greedy)
        options = dict(cache_implementation="static", compile_config=step)
        assert torch.equal(model.generate(**inputs, **greedy, **options), expected)
        compiled.append(counters["stats"]["unique_graphs"])
    graphs = 2 if case.name in WINDOWS or case.name in TWICE else 1
    assert compiled == [graphs, graphs]
