"""SmolVLM: one budget for all crops of an image, spent where they differ most.

python python/examples/smolvlm.py HuggingFaceTB/SmolVLM-Instruct photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("smolvlm")
zoprune.prune(model, keep=0.2)
answer(model, inputs, processor)
