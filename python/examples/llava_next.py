"""LLaVA-NeXT: a budget for the base view and for each crop; newline tokens stay on top of it.

python python/examples/llava_next.py llava-hf/llava-v1.6-mistral-7b-hf photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("llava_next")
zoprune.prune(model, keep=0.2, per="crop")
answer(model, inputs, processor)
zoprune.report(model).picture(0, processor).save("kept.png")
