"""Architectures of transformers that are known and cannot be pruned here, each with the reason."""

_QUERIES = "its visual tokens are learned queries, each of them of the whole image"
_CROSS = "its language model reads images by cross attention, none of its tokens are visual"
_ENCODER = "its language model is an encoder and a decoder"
_DISCRETE = "its images are words of a vocabulary, there is no projector"
_AUDIO = "its audio, images and videos share a prompt and positions of their own"
_MIXES = "its projector mixes neighbouring patches, no token has an input of its own"
_PATCHES = "it has no vision tower, patches enter the language model through one layer"
_NO_IMAGES = "it reads no images"
_NO_TEXT = "it does not write text token by token"
_NORM = "its projector ends in a norm"
_TOWERS = "its projector reads two vision towers at once"
_SEPARATORS = "its prompt has newlines and separators of its own among the visual tokens"

REASONS = {
    "Apertus1p5ForConditionalGeneration": _DISCRETE,
    "AriaForConditionalGeneration": _QUERIES,
    "Blip2ForConditionalGeneration": _QUERIES,
    "BlipForConditionalGeneration": _CROSS,
    "ChameleonForConditionalGeneration": _DISCRETE,
    "DeepseekOcr2ForConditionalGeneration": _QUERIES,
    "DeepseekVLHybridForConditionalGeneration": _TOWERS,
    "DiffusionGemmaForBlockDiffusion": _NO_TEXT,
    "Dots3NoteForConditionalGeneration": _AUDIO,
    "Emu3ForConditionalGeneration": _DISCRETE,
    "Ernie4_5_VL_MoeForConditionalGeneration": _MIXES,
    "Ernie4_5_VLMoeForConditionalGeneration": _MIXES,
    "EvollaForProteinText2Text": _NO_IMAGES,
    "Florence2ForConditionalGeneration": _ENCODER,
    "FuyuForCausalLM": _PATCHES,
    "Gemma3nForConditionalGeneration": _NORM,
    "Gemma4UnifiedForConditionalGeneration": _PATCHES,
    "GitForCausalLM": "its images stand before the prompt, no tokens of which are theirs",
    "Glm5NextForConditionalGeneration": "its projector clamps what its gate lets through",
    "Granite4VisionForConditionalGeneration": _QUERIES,
    "GraniteDoclingForConditionalGeneration": "a router chooses between two projectors",
    "HunYuanVLForConditionalGeneration": _MIXES,
    "HYV4VLForConditionalGeneration": _MIXES,
    "Idefics2ForConditionalGeneration": _QUERIES,
    "IdeficsForVisionText2Text": _CROSS,
    "InklingForConditionalGeneration": "its tower is its projector, layer by layer",
    "InstructBlipForConditionalGeneration": _QUERIES,
    "InstructBlipVideoForConditionalGeneration": _QUERIES,
    "Kosmos2_5ForConditionalGeneration": _QUERIES,
    "Kosmos2ForConditionalGeneration": _QUERIES,
    "Mistral4ForCausalLM": _NO_IMAGES,
    "MllamaForConditionalGeneration": _CROSS,
    "Molmo2ForConditionalGeneration": _MIXES,
    "MuseGlimmerForConditionalGeneration": _NORM,
    "MuseSparkForConditionalGeneration": _NORM,
    "NemotronH_Omni_Reasoning_V3": _AUDIO,
    "Ovis2ForConditionalGeneration": "its projector ends in a softmax over a visual vocabulary",
    "PI0ForConditionalGeneration": _NO_TEXT,
    "Pix2StructForConditionalGeneration": _ENCODER,
    "PPFormulaNetForConditionalGeneration": _ENCODER,
    "Qwen2_5OmniForConditionalGeneration": _AUDIO,
    "Qwen2_5OmniThinkerForConditionalGeneration": _AUDIO,
    "Qwen3OmniMoeForConditionalGeneration": _AUDIO,
    "Qwen3OmniMoeThinkerForConditionalGeneration": _AUDIO,
    "Qwen4ExpForConditionalGeneration": "its language model reads groups of neighbouring token ids",
    "T5Gemma2ForConditionalGeneration": _ENCODER,
    "UdopForConditionalGeneration": _ENCODER,
    "UnlimitedOcrForConditionalGeneration": _SEPARATORS,
    "VisionEncoderDecoderModel": _ENCODER,
}
