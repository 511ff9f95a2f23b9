"""The oracle: the language model alone, with sdpa, on embeddings and positions pruned by hand."""

import torch
import transformers
from packaging.version import Version

from tests.hf.flash import attention, uses_flash
from tests.hf.linear_models import VIEW

V4 = Version(transformers.__version__) < Version("5")
V5_18 = Version(transformers.__version__) >= Version("5.18.dev0")


TEXT_ONLY = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def attends_both_ways(case, model):
    """Where tokens attend to later ones. Flash attention has no mask to say so: transformers then
    lets Gemma 3, and in version 4 PaliGemma, attend to earlier tokens only, pruned or not.
    """
    return None if uses_flash(model) and (V4 or case.name == "gemma3") else case.bidirectional


def hand_pruned(case, model, inputs, kept, positions="compact"):
    """The language model's inputs for each row, without dropped tokens and without padding.

    ``kept`` has the kept indices within each image. Written with loops over single tokens.
    """
    core = getattr(model, "model", model)
    names = {k: v for k, v in inputs.items() if k not in TEXT_ONLY}
    if not V5_18 and case.name == "llava_onevision-video":
        chosen = {"vision_feature_layer": core.config.vision_feature_layer}
        chosen["vision_feature_select_strategy"] = "full"
        output = core.get_video_features(names["pixel_values_videos"], **chosen)
        features = getattr(output, "pooler_output", output)
        newline = core.image_newline.expand(len(features), 1, -1)
        features = torch.cat([features, newline], 1)
    elif V4 and case.deepstack:
        features, deepstack = getattr(core, f"get_{case.modality}_features")(**names)
        deepstack = [layer.split([len(f) for f in features]) for layer in deepstack]
    else:
        get = getattr(core, f"get_{case.modality}_features", None)
        if get is None:  # Perception LM, whose videos are more images
            get, names = core.get_image_features, {"pixel_values": names["pixel_values_videos"]}
        output = get(**names)
        features = getattr(output, "pooler_output", output)
        if case.name == "llama4":
            features = core.multi_modal_projector(output.last_hidden_state)
        deepstack = getattr(output, "deepstack_features", None)
        if deepstack is not None and isinstance(deepstack[0], torch.Tensor):
            deepstack = [layer.split([len(f) for f in features]) for layer in deepstack]
    if case.name == "video_llava-video":  # frames
        features = features.flatten(0, 1).split([17 * n for n in case.frames[: len(kept)]])
    if case.views:
        sizes = [VIEW * views for views in case.views[: len(kept)]]
        features = torch.cat([f.flatten(0, -2) for f in features]).split(sizes)
    if case.mrope:
        arguments = {k: v for k, v in inputs.items() if not k.startswith("pixel")}
        full_positions = core.get_rope_index(**arguments)[0]
    both_ways = attends_both_ways(case, model)
    image = -1
    rows = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        embeds, places, visual, deep, words = [], [], [], [], []
        left = 0  # tokens of the current image still to come
        for offset, column in enumerate(mask.nonzero()[:, 0].tolist()):
            is_visual = bool(ids[column] == case.placeholder)
            if is_visual:
                if left == 0:
                    image, index, left = image + 1, -1, len(features[image + 1])
                index, left = index + 1, left - 1
                if index not in kept[image].tolist():
                    continue
                embeds.append(features[image][index])
                if case.deepstack:
                    deep.append(torch.stack([layer[image][index] for layer in deepstack]))
            else:
                embeds.append(model.get_input_embeddings()(ids[column]))
            row = len(rows)
            places.append(full_positions[:, row, column] if case.mrope else torch.tensor(offset))
            visual.append(is_visual)
            words.append(0 if is_visual else int(ids[column]))
        place = torch.stack(places, -1)  # [3, L'] or [L']
        if not case.mrope and positions == "compact":
            place = torch.arange(len(embeds))
        rows.append(
            {"inputs_embeds": torch.stack(embeds)[None], "position_ids": place[..., None, :]}
        )
        if both_ways:
            rows[-1]["blocks"] = blocks(both_ways, torch.tensor(visual))
        if case.name.startswith("gemma4"):
            rows[-1]["per_layer_inputs"] = per_layer(model, torch.tensor(words), embeds, visual)
        if case.deepstack:
            rows[-1]["visual_pos_masks"] = torch.tensor(visual)[None]
            rows[-1]["deepstack_visual_embeds"] = list(torch.stack(deep, 1))
    return rows


def per_layer(model, words, embeds, visual):
    """Gemma 4's embeddings [1, L', layers, c] of each layer, those of padding for images."""
    language_model = model.model.language_model
    padding = language_model.embed_tokens.weight[0]
    rows = [padding if seen else row for row, seen in zip(embeds, visual, strict=True)]
    return language_model.get_per_layer_inputs(words[None], torch.stack(rows)[None])


def blocks(both_ways, visual):
    """Which tokens [L'] attend to each other in both directions: same number, and not -1."""
    if both_ways == "prompt":
        return torch.zeros(len(visual), dtype=torch.long)
    first = visual & ~torch.nn.functional.pad(visual, (1, 0))[:-1]
    return first.cumsum(0).masked_fill(~visual, 0) - 1


def attention_mask(model, block):
    """[1, 1, L', L'] for each kind of layer, True where a token attends to another."""
    places = torch.arange(len(block))
    distance = places[:, None] - places
    causal = distance >= 0
    both = (block[:, None] == block) & (block >= 0)
    full = (causal | both)[None, None]
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window is None:
        return full
    if model.config.model_type == "gemma4":  # both ways in the other layers only
        full = causal[None, None]
    near = distance < window
    sliding = (causal & near) | both if V4 else (causal | both) & near
    return {"full_attention": full, "sliding_attention": sliding[None, None]}


def logits_of(model, row):
    """[L', V] logits of the language model alone, without a cache."""
    row = dict(row)
    block = row.pop("blocks", None)
    mask = torch.ones(row["inputs_embeds"].shape[:2], dtype=torch.long)
    if block is not None:
        mask = attention_mask(model, block)
    core = getattr(model, "model", None)  # Llama 4 has none
    decoder = model.language_model.model if core is None else core
    decoder = getattr(decoder, "text_model", None) or getattr(decoder, "language_model", decoder)
    with attention(model, "sdpa"):
        outputs = decoder(**row, attention_mask=mask, use_cache=False)
    logits = model.get_output_embeddings()(outputs.last_hidden_state)[0]
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def continued(model, row, ids):
    """Logits [n, V] that precede each of the n generated ids, in one pass without a cache."""
    ids = ids[:-1]
    embeds = torch.cat([row["inputs_embeds"], model.get_input_embeddings()(ids)[None]], 1)
    steps = torch.arange(1, len(ids) + 1)
    positions = torch.cat([row["position_ids"], row["position_ids"][..., -1:] + steps], -1)
    longer = row | {"inputs_embeds": embeds, "position_ids": positions}
    if "blocks" in row:
        longer["blocks"] = torch.nn.functional.pad(row["blocks"], (0, len(ids)), value=-1)
    if "per_layer_inputs" in row:
        more = per_layer(model, ids, model.get_input_embeddings()(ids), [False] * len(ids))
        longer["per_layer_inputs"] = torch.cat([row["per_layer_inputs"], more], 1)
    if "visual_pos_masks" in row:
        mask = row["visual_pos_masks"]
        longer["visual_pos_masks"] = torch.nn.functional.pad(mask, (0, len(ids)))
    return logits_of(model, longer)[-len(ids) - 1 :]
