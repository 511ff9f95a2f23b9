"""Gemma 3: kept tokens of an image go on attending to each other in both directions.

python python/examples/gemma3.py google/gemma-3-4b-it photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("gemma3")
zoprune.prune(model, keep=0.25)
answer(model, inputs, processor)
