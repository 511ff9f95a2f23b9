"""Mistral 3: first the tokens most like the question, then those that the scores ask for.

python python/examples/mistral3.py mistralai/Mistral-Small-3.1-24B-Instruct-2503 photo.jpg
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("mistral3")
zoprune.prune(model, keep=0.4, prompt_seeds=2)
answer(model, inputs, processor)
