"""LLaVA-1.5: a ninth of an image's 576 tokens, and a picture of them.

python python/examples/llava.py llava-hf/llava-1.5-7b-hf photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("llava")
zoprune.prune(model, keep=1 / 9)
with zoprune.keep(None):  # all tokens, to compare
    answer(model, inputs, processor)
answer(model, inputs, processor)
zoprune.report(model).picture(0, processor).save("kept.png")
