"""Pixtral: images keep their shape, so a ratio follows each one's number of tokens.

python python/examples/pixtral.py mistral-community/pixtral-12b photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("pixtral")
zoprune.prune(model, keep=0.2)
answer(model, inputs, processor)
