"""PaliGemma: a linear projector, so diversity alone decides; ``prune`` says so once.

python python/examples/paligemma.py google/paligemma2-3b-mix-448 photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("paligemma")
zoprune.prune(model, keep=0.3, method="maxmin")
answer(model, inputs, processor)
