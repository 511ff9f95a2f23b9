"""Qwen2-VL: kept tokens stay at their positions in the image's grid.

python python/examples/qwen2_vl.py Qwen/Qwen2-VL-7B-Instruct photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("qwen2_vl")
zoprune.prune(model, keep=0.2)
answer(model, inputs, processor)
