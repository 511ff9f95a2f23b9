"""Idefics 3: a budget for each crop and for the view of the whole image after them.

python python/examples/idefics3.py HuggingFaceM4/Idefics3-8B-Llama3 photo.jpg "What is this?"
"""

import zoprune
from shared import answer, load

model, inputs, processor = load("idefics3")
zoprune.prune(model, keep=0.3, per="crop")
answer(model, inputs, processor)
zoprune.report(model).picture(0, processor).save("kept.png")
