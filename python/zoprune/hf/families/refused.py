"""Architectures of transformers that are known and cannot be pruned here, each with the reason."""

_QUERIES = "its visual tokens are learned queries, each of them of the whole image"
_CROSS = "its language model reads images by cross attention, none of its tokens are visual"
_ENCODER = "its language model is an encoder and a decoder"
_DISCRETE = "its images are words of a vocabulary, there is no projector"
_AUDIO = "its audio, images and videos share a prompt and positions of their own"
_MIXES = "its projector mixes neighbouring patches, no token has an input of its own"
_PATCHES = "it has no vision tower, patches enter the language model through one layer"

REASONS = {
    "AriaForConditionalGeneration": _QUERIES,
    "Blip2ForConditionalGeneration": _QUERIES,
    "ChameleonForConditionalGeneration": _DISCRETE,
    "Emu3ForConditionalGeneration": _DISCRETE,
    "Ernie4_5_VLMoeForConditionalGeneration": _MIXES,
    "Ernie4_5_VL_MoeForConditionalGeneration": _MIXES,
    "Florence2ForConditionalGeneration": _ENCODER,
    "FuyuForCausalLM": _PATCHES,
    "Gemma4UnifiedForConditionalGeneration": _PATCHES,
    "Granite4VisionForConditionalGeneration": _QUERIES,
    "HunYuanVLForConditionalGeneration": _MIXES,
    "HYV4VLForConditionalGeneration": _MIXES,
    "Idefics2ForConditionalGeneration": _QUERIES,
    "InstructBlipForConditionalGeneration": _QUERIES,
    "InstructBlipVideoForConditionalGeneration": _QUERIES,
    "Kosmos2ForConditionalGeneration": _QUERIES,
    "MllamaForConditionalGeneration": _CROSS,
    "Ovis2ForConditionalGeneration": "its projector ends in a softmax over a visual vocabulary",
    "Qwen2_5OmniForConditionalGeneration": _AUDIO,
    "Qwen2_5OmniThinkerForConditionalGeneration": _AUDIO,
    "Qwen3OmniMoeForConditionalGeneration": _AUDIO,
    "Qwen3OmniMoeThinkerForConditionalGeneration": _AUDIO,
    "T5Gemma2ForConditionalGeneration": _ENCODER,
}
