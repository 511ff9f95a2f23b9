"""LLaVA-OneVision: a budget for each frame of a video, or for each crop of an image.

python python/examples/llava_onevision.py llava-hf/llava-onevision-qwen2-7b-ov-hf photo.jpg
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("llava_onevision-video")
zoprune.prune(model, keep=0.5, per="frame")
answer(model, inputs, processor)
