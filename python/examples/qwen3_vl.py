"""Qwen3-VL: scores of what leaves the projector's norm, not through it; DeepStack shrinks too.

python python/examples/qwen3_vl.py Qwen/Qwen3-VL-8B-Instruct photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("qwen3_vl")
zoprune.prune(model, keep=0.2, through_norm=False)
answer(model, inputs, processor)
