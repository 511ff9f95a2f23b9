"""LLaVA-1.5 and Pixtral in its original form: one row of the projector is one visual token."""

from .base import Family


class Llava(Family):
    models = ("LlavaForConditionalGeneration",)
    passed_on = ("image_sizes",)
