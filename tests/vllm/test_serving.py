"""What serving needs beside right tokens, on one engine with Qwen2.5-VL."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from tests.vllm import checkpoints, engine
from tests.vllm.table import CASES, ask, pictures, prompts

QWEN = CASES["qwen2_5_vl"]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    engine.prepare(folder / "cache")
    checkpoints.qwen2_5_vl(folder / "qwen")
    llm = engine.start(folder / "qwen", 5, enable_prefix_caching=False, mm_processor_cache_gb=0)
    yield llm
    engine.stop(llm)


@pytest.fixture(scope="module")
def model(llm):
    return engine.model_of(llm)


@pytest.fixture(scope="module")
def batch(llm):
    """The inputs of three images, as the encoder gets them, with budgets 5, 0.4 and 1.0."""
    from transformers import AutoProcessor
    from zoprune.vllm.options import KEEP, encode_keep

    processor = AutoProcessor.from_pretrained(llm.llm_engine.model_config.model)
    text = QWEN.placeholder * 3
    inputs = processor(text=[text], images=[pictures(QWEN)], return_tensors="pt")
    keeps = torch.tensor([encode_keep(k) for k in (5, 0.4, 1.0)], dtype=torch.float64)
    names = ("pixel_values", "image_grid_thw")
    return {name: inputs[name] for name in names} | {KEEP: keeps}


@torch.inference_mode()
def test_no_more_images_at_once_than_were_profiled(model, batch, monkeypatch):
    whole = model.embed_multimodal(**batch)
    assert [len(image) for image in whole] == [5, 13, 35]
    runs = []
    forward = model.visual.forward
    monkeypatch.setattr(model.visual, "forward", lambda *a, **k: runs.append(1) or forward(*a, **k))
    monkeypatch.setitem(vars(model), "most_images", 2)
    parts = model.embed_multimodal(**batch)
    assert len(runs) == 2
    for image, part in zip(whole, parts, strict=True):
        torch.testing.assert_close(image, part)


@torch.inference_mode()
def test_rows_are_picked_behind_the_encoder_graph(model, batch):
    """As vLLM's manager of encoder graphs calls the model; nothing is captured on a CPU."""
    expected = model.embed_multimodal(**batch)
    config = model.get_encoder_cudagraph_config()
    assert config.modalities == ["image", "video"]
    order = [2, 0, 1]
    part = model.select_encoder_cudagraph_items(batch, order)
    output = model.encoder_eager_forward(part)
    assert output.shape[1] == config.out_hidden_size
    sizes = [spec.output_tokens for spec in model.get_encoder_cudagraph_item_specs(batch)]
    results: dict[int, torch.Tensor] = {}
    padded = torch.cat([output, output[:3]])  # a graph's buffer is longer than what is in it
    model.postprocess_encoder_output(
        {"default": padded}, order, sizes, results, clone=True, batch_mm_kwargs=part
    )
    for i, image in enumerate(expected):
        torch.testing.assert_close(results[i], image)


@torch.inference_mode()
def test_replayed_graphs_give_what_the_encoder_gives(llm, model, batch, monkeypatch):
    """vLLM's manager of encoder graphs, its budgets and packing. A replay of a captured graph is
    the forward run again; what is behind its output in the buffer is not a number."""
    from vllm.v1.worker import encoder_cudagraph as graphs
    from zoprune.vllm.columns import COLUMNS

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(graphs, "current_stream", lambda: None)
    compilation = llm.llm_engine.vllm_config.compilation_config
    monkeypatch.setattr(compilation, "encoder_cudagraph_token_budgets", [40, 80])
    monkeypatch.setattr(compilation, "encoder_cudagraph_max_vision_items_per_batch", 2)
    config, device = llm.llm_engine.vllm_config, torch.device("cpu")
    prepare, inputs = model.prepare_encoder_cudagraph_replay_buffers, []
    monkeypatch.setitem(
        vars(model),
        "prepare_encoder_cudagraph_replay_buffers",
        lambda *args: inputs.append(prepare(*args)) or inputs[-1],
    )
    with monkeypatch.context() as capturing:  # attention on the CPU takes no padding
        shape = (1, model.pruning.width + COLUMNS)
        capturing.setitem(
            vars(model), "encoder_cudagraph_forward", lambda *a, **k: torch.ones(shape)
        )
        manager = graphs.EncoderCudaGraphManager(config, device, torch.float32, model)
        manager.capture(object())
    for budget, captured in manager.budget_graphs["default"].items():

        def replay(budget=budget, captured=captured):
            output = model.encoder_cudagraph_forward(dict(inputs[-1].values))
            assert output.shape[1] == manager.config.out_hidden_size
            captured.output_buffer = torch.full((budget, output.shape[1]), float("nan"))
            captured.output_buffer[: len(output)] = output

        captured.graph = SimpleNamespace(replay=replay)
    expected = model.embed_multimodal(**batch)
    for image, other in zip(manager.execute(batch), expected, strict=True):
        torch.testing.assert_close(image, other)
    assert (manager.graph_hits, manager.graph_misses) == (3, 0)


@torch.inference_mode()
def test_videos_pass_the_encoder_graph_whole(model, batch):
    grid = batch["image_grid_thw"]
    videos = {"pixel_values_videos": batch["pixel_values"], "video_grid_thw": grid}
    expected = model.embed_multimodal(**videos)
    output = model.encoder_eager_forward(videos)
    results: dict[int, torch.Tensor] = {}
    sizes = [len(video) for video in expected]
    model.postprocess_encoder_output({"default": output}, [0, 1, 2], sizes, results, True, videos)
    for i, video in enumerate(expected):
        assert video.shape[1] == model.pruning.width
        torch.testing.assert_close(results[i], video)


def test_the_encoder_budget_is_that_of_whole_images(llm):
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.encoder_budget import MultiModalBudget

    config = llm.llm_engine.vllm_config
    pruned = MultiModalBudget(config, MULTIMODAL_REGISTRY)
    hf = config.model_config.hf_config
    keep = hf.__dict__.pop("zoprune_keep")
    try:
        stock = MultiModalBudget(config, MULTIMODAL_REGISTRY)
    finally:
        hf.zoprune_keep = keep
    assert pruned.mm_max_toks_per_item == stock.mm_max_toks_per_item
    assert pruned.mm_max_items_per_batch == stock.mm_max_items_per_batch
    item = pruned.processor.get_dummy_mm_inputs({"image": 1})["mm_placeholders"]["image"][0]
    assert item.get_num_embeds() == keep


def test_a_prompt_that_ends_with_the_image_is_refused(llm):
    with pytest.raises(ValueError, match="expected text after the image"):
        ask(llm, [("w1 <|image_pad|>", pictures(QWEN)[:1], None)])


def test_a_request_cannot_name_other_options(llm):
    from vllm import SamplingParams

    request = {
        "prompt": prompts(QWEN)[0][0],
        "multi_modal_data": {"image": pictures(QWEN)[:1]},
        "mm_processor_kwargs": {"zoprune_method": "topk"},
    }
    with pytest.raises(ValueError, match="zoprune_method: expected at the server's start"):
        llm.generate(request, SamplingParams(max_tokens=1), use_tqdm=False)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_positions_are_exact_beyond_256(model, dtype):
    """A picture of 2 x 700 tokens: every kept token's row and column, in any chunk, any number of
    times; the text behind it goes on at 700."""
    from zoprune.vllm.options import KEEP

    grid = torch.tensor([1, 4, 1400])
    data = {"image_grid_thw": SimpleNamespace(data=grid), KEEP: SimpleNamespace(data=9.0)}
    picks = torch.tensor([0, 1, 255, 256, 257, 511, 699, 700, 1399])
    features = torch.zeros(9, model.pruning.width, dtype=dtype)
    (image,) = model.finish([features], [picks], {"image_grid_thw": grid[None]})
    assert image.dtype == dtype

    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    token, place = model.config.image_token_id, PlaceholderRange(offset=3, length=9)
    prompt = [20, 21, 22, *[token] * 9, 23, 24]
    feature = MultiModalFeatureSpec(data=data, modality="image", identifier="x", mm_position=place)
    positions, delta = model.get_mrope_input_positions(prompt, [feature])
    assert positions[:, :3].tolist() == [[0, 1, 2]] * 3
    assert positions[:, 12:].tolist() == [[703, 704]] * 3
    assert delta == 705 - len(prompt)
    expected = torch.stack([torch.full((9,), 3), 3 + picks // 700, 3 + picks % 700])
    for computed in (0, 3, 3, 8, 0):  # chunks that begin before and within the image, and again
        rows = max(computed - 3, 0)
        cleaned, positions, again = model.recompute_mrope_positions(
            prompt, [image[rows:]], positions, computed
        )
        assert cleaned[0].shape == (9 - rows, model.pruning.width) and again == delta
        assert torch.equal(positions[:, 3 + rows : 12], expected[:, rows:])
    assert torch.equal(positions[:, 3:12], expected)
    assert model.recompute_mrope_positions(prompt, [], positions, 14)[2] == delta


@torch.inference_mode()
def test_positions_beside_a_video_are_those_of_the_whole_prompt(model):
    """An image that is pruned, a video that is not, and an image: every token where it would be."""
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Stock
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
    from zoprune.vllm.options import KEEP

    image, video = model.config.image_token_id, model.config.video_token_id
    grids = [
        ("image", [1, 8, 12], [1, 7, 20]),
        ("video", [2, 4, 6], None),
        ("image", [1, 12, 4], [2]),
    ]
    prompt, whole, features, all_features, kept_columns, embeddings = [20], [20], [], [], [0], []
    for modality, grid, picks in grids:
        size = grid[0] * grid[1] * grid[2] // 4
        rows = list(range(size)) if picks is None else picks
        values = {f"{modality}_grid_thw": torch.tensor(grid)}
        if modality == "video":
            values["second_per_grid_ts"] = torch.tensor(1.0)
        data = {name: SimpleNamespace(data=value) for name, value in values.items()}
        kept = data if picks is None else {**data, KEEP: SimpleNamespace(data=float(len(picks)))}
        for ids, into, count, fields in (
            (prompt, features, len(rows), kept),
            (whole, all_features, size, data),
        ):
            place = PlaceholderRange(offset=len(ids), length=count)
            into.append(
                MultiModalFeatureSpec(
                    data=fields, modality=modality, identifier="x", mm_position=place
                )
            )
        kept_columns += [len(whole) + row for row in rows] + [len(whole) + size]
        token = image if modality == "image" else video
        prompt += [token] * len(rows) + [21]
        whole += [token] * size + [21]
        encoded = torch.zeros(len(rows), model.pruning.width)
        if picks is not None:
            thw = torch.tensor([grid])
            (encoded,) = model.finish([encoded], [torch.tensor(rows)], {"image_grid_thw": thw})
        embeddings.append(encoded)
    expected, _ = Stock.get_mrope_input_positions(model, whole, all_features)
    positions, delta = model.get_mrope_input_positions(prompt, features)
    cleaned, positions, again = model.recompute_mrope_positions(prompt, embeddings, positions, 0)
    assert torch.equal(positions, expected[:, kept_columns])
    assert delta == again == int(expected.max()) + 1 - len(prompt)
    assert {e.shape[1] for e in cleaned} == {model.pruning.width}


@torch.inference_mode()
def test_new_weights_are_folded_again(model):
    from zoprune.vllm.scoring import Scorer

    x, weights = torch.randn(6, model.pruning.scorer.width), dict(model.pruning.weights)
    old = model.pruning.scorer(x)
    name, gamma = "model.visual.merger.ln_q.weight", weights["norm.weight"]
    model.load_weights([(name, gamma * 3)])
    changed = weights | {"norm.weight": gamma * 3}
    expected = Scorer(changed, model.layout.layers, model.config, model.pruning.options, 1e-6)
    expected.use(expected.fold())
    torch.testing.assert_close(model.pruning.scorer(x), expected(x))
    assert not torch.allclose(model.pruning.scorer(x), old)
    model.load_weights([(name, gamma)])
    torch.testing.assert_close(model.pruning.scorer(x), old)
