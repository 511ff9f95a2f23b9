"""InternVL 3: each tile is an image of its own; the metric is folded once and kept in a file.

python python/examples/internvl.py OpenGVLab/InternVL3-8B-hf photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("internvl")
zoprune.prune(model, keep=0.2, metric="internvl-metric.safetensors")
answer(model, inputs, processor)
