"""Qwen2.5-VL: a budget for each frame of a video (an image is one frame).

python python/examples/qwen2_5_vl.py Qwen/Qwen2.5-VL-7B-Instruct photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("qwen2_5_vl-video")
zoprune.prune(model, keep=0.3, per="frame")
answer(model, inputs, processor)
