"""One answer with all visual tokens and one with few; any supported architecture.

python python/examples/generate.py CHECKPOINT photo.jpg "What is in the picture?" --keep 64
"""

import argparse

import torch
import zoprune
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

parser = argparse.ArgumentParser()
parser.add_argument("checkpoint")
parser.add_argument("photo")
parser.add_argument("question")
parser.add_argument("--keep", type=int, default=64)
args = parser.parse_args()

processor = AutoProcessor.from_pretrained(args.checkpoint)
model = AutoModelForImageTextToText.from_pretrained(args.checkpoint, dtype=torch.bfloat16)
content = [{"type": "image"}, {"type": "text", "text": args.question}]
text = processor.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True
)
image = Image.open(args.photo).convert("RGB")
inputs = processor(images=image, text=text, return_tensors="pt").to(model.device, model.dtype)

zoprune.prune(model, keep=args.keep)
for keep in (None, args.keep):
    with zoprune.keep(keep):
        output = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :]
    print(f"[{zoprune.report(model)}] {processor.decode(answer, skip_special_tokens=True)}")
