"""Who calls ``generate`` for the user, or reads what it says: pipelines and streamers."""

import threading

import pytest
import torch
import transformers
import zoprune

from tests.hf.checkpoint import save_llava

pytestmark = pytest.mark.usefixtures("one_thread")
Image = pytest.importorskip("PIL.Image")
GREEDY = dict(max_new_tokens=4, do_sample=False)
TEXT = "<image> what is this ?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = save_llava(tmp_path_factory.mktemp("llava"))
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(4)
    picture = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8).numpy()
    return model, processor, Image.fromarray(picture)


@pytest.fixture
def pruned(checkpoint):
    """The model, its processor, a picture, the inputs, and the answer to them."""
    model, processor, picture = checkpoint
    inputs = processor(images=picture, text=TEXT, return_tensors="pt")
    zoprune.prune(model, 6)
    sequences = model.generate(**inputs, **GREEDY)
    answer = sequences[0, inputs["input_ids"].shape[1] :]
    assert len(answer) == 4
    yield model, processor, picture, inputs, processor.tokenizer.decode(answer)
    zoprune.restore(model)


def test_pipeline(pruned):
    model, processor, picture, _, answer = pruned
    pipe = transformers.pipeline("image-text-to-text", model=model, processor=processor)
    options = dict(generate_kwargs=GREEDY, return_full_text=False)
    (result,) = pipe(images=picture, text=TEXT, **options)
    assert result["generated_text"].split() == answer.split()
    assert str(zoprune.report(model)) == "6 of 16"
    batch = pipe(images=[[picture], [picture]], text=[TEXT, TEXT], batch_size=2, **options)
    for row in batch:
        row = row[0] if isinstance(row, list) else row
        assert row["generated_text"].split() == answer.split()


def test_a_streamer_in_the_foreground(pruned, capsys):
    model, processor, _, inputs, answer = pruned
    streamer = transformers.TextStreamer(processor.tokenizer, skip_prompt=True)
    model.generate(**inputs, **GREEDY, streamer=streamer)
    assert capsys.readouterr().out.split() == answer.split()


def test_a_streamer_that_reads_in_another_thread(pruned):
    model, processor, _, inputs, answer = pruned
    streamer = transformers.TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=300)
    given = dict(**inputs, **GREEDY, streamer=streamer)
    thread = threading.Thread(target=model.generate, kwargs=given)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text.split() == answer.split()
