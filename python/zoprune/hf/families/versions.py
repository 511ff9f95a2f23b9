"""The transformers that a class is tested with; others are refused by name."""

OLDEST = "4.57"
SINCE = {
    # Another forward in transformers 4, or not there at all.
    "AyaVisionForConditionalGeneration": "5",
    "Cohere2VisionForConditionalGeneration": "5",
    "CohereCompassForConditionalGeneration": "5",
    "Cosmos3EdgeForConditionalGeneration": "5",
    "Cosmos3OmniForConditionalGeneration": "5",
    "Exaone4_5_ForConditionalGeneration": "5",
    "FastVlmForConditionalGeneration": "5",
    "Glm46VForConditionalGeneration": "5",
    "Glm4vForConditionalGeneration": "5",
    "Glm4vMoeForConditionalGeneration": "5",
    "GlmOcrForConditionalGeneration": "5",
    "Kimi_K25ForConditionalGeneration": "5",
    "Lfm2VlForConditionalGeneration": "5",
    "LightOnOcrForConditionalGeneration": "5",
    "PaddleOCRVLForConditionalGeneration": "5",
    "QianfanOCRForConditionalGeneration": "5",
    "Qwen3_5ForConditionalGeneration": "5",
    "Qwen3_5MoeForConditionalGeneration": "5",
    "VideoLlama3ForConditionalGeneration": "5",
    "Gemma4ForConditionalGeneration": "5.19",
    # Another forward or layout in 5.17, or not there at all.
    "HyperCLOVAXVisionV2ForConditionalGeneration": "5.24",
    "Inkling2ForConditionalGeneration": "5.24",
    "Inkling2LoopForConditionalGeneration": "5.24",
    "Lfm3VlForConditionalGeneration": "5.24",
    "Llama4ForConditionalGeneration": "5.24",
    "LlavaNextVideoForConditionalGeneration": "5.24",
    "MiniCPMOcrForConditionalGeneration": "5.24",
    "MiniCPMV4_6ForConditionalGeneration": "5.24",
    "MiniCPMV4_7ForConditionalGeneration": "5.24",
    "MiniMaxM3SparseForConditionalGeneration": "5.24",
    "MistralLarge4ForConditionalGeneration": "5.24",
    "PerceptionLMForConditionalGeneration": "5.24",
    "Step3p7ForConditionalGeneration": "5.24",
    "VideoLlavaForConditionalGeneration": "5.24",
}

# From the first of these up to the second, left out, a forward takes features of one shape only.
NOT_IN = {
    "Idefics3ForConditionalGeneration": ("5.18", "5.21"),
    "SmolVLMForConditionalGeneration": ("5.18", "5.21"),
}


def refused(name: str, version: tuple[int, ...]) -> str | None:
    """What transformers would have to be, where a class is not pruned with this version of it."""
    oldest = SINCE.get(name, OLDEST)
    if version < _numbers(oldest):
        return f">= {oldest}"
    first, end = NOT_IN.get(name, (oldest, oldest))
    if _numbers(first) <= version < _numbers(end):
        return f"< {first} or >= {end}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """As ``compat.VERSION`` has them."""
    return tuple(int(part) for part in version.split("."))
