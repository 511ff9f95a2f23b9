"""A page in the browser: upload a picture, ask, slide how many tokens stay, compare the answers.

The page is served to this machine only, unless --host says otherwise; nothing is loaded from or
sent to elsewhere. One question is answered at a time.
"""

from __future__ import annotations

import argparse
import threading
from typing import Any

from . import photo as photos
from .errors import UsageError, need
from .options import METHODS, within
from .progress import Progress

SUMMARY = "compare answers with all and with few visual tokens, in the browser"
PROMPT = "What is in the picture?"
TOKENS = 576  # LLaVA-1.5's, until a picture has been asked about


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a checkpoint's directory or hub name (default: the package's small model)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="0: any that is free (default: 7860)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=60,
        metavar="N",
        help="length of an answer, at most (default: 60)",
    )


def run(args: argparse.Namespace) -> int:
    within("--port", args.port, 0, 65535)
    within("--max-new-tokens", args.max_new_tokens, 1, 65536)
    need("the page", "demo,hf,web", "numpy", "PIL", "transformers", "safetensors", "gradio")
    from .checkpoint import TRAINED, load

    step = Progress("loading the checkpoint")
    model, processor = load(args.model or str(TRAINED), "auto")
    step.finish(type(model).__name__)
    demo = page(model, processor, args.max_new_tokens)
    try:
        print(f"Open {launch(demo, args.host, args.port)} (Ctrl+C ends it)", flush=True)
    except OSError as error:
        raise UsageError(f"--port: cannot listen on {args.host}:{args.port}: {error}") from error
    demo.block_thread()
    return 0


def launch(demo: Any, host: str, port: int) -> str:
    """Serve a page in the background; returns its address."""
    import gradio

    _, address, _ = demo.launch(
        server_name=host,
        server_port=port or None,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        footer_links=[],
        max_file_size="50mb",
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    return address


def page(model: Any, processor: Any, length: int) -> Any:
    """The ``gradio.Blocks`` of one model; ``launch`` serves it."""
    import gradio

    lock = threading.Lock()

    def ask(path: str | None, prompt: str, keep: float, method: str) -> tuple[Any, ...]:
        try:
            with lock:
                return answer(model, processor, path, prompt, int(keep), method, length)
        except UsageError as error:
            raise gradio.Error(str(error)) from error

    hour = 3600  # seconds that uploads stay on disk
    with gradio.Blocks(
        title="zoprune", analytics_enabled=False, delete_cache=(hour, hour)
    ) as blocks:
        gradio.Markdown(
            f"# zoprune\n{type(model).__name__} answers with all of a picture's visual tokens, "
            "and with the few that are kept."
        )
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(type="filepath", label="Picture", sources=["upload"])
                prompt = gradio.Textbox(PROMPT, label="Question")
                keep = gradio.Slider(1, TOKENS, 64, step=1, label="Visual tokens to keep")
                method = gradio.Dropdown(list(METHODS), value=METHODS[0], label="Method")
                button = gradio.Button("Ask", variant="primary")
            with gradio.Column():
                kept = gradio.Image(label="Kept patches", interactive=False)
                full = gradio.Textbox(label="Answer with all tokens", interactive=False)
                pruned = gradio.Textbox(label="Answer with the kept ones", interactive=False)
                times = gradio.Markdown()
        inputs, outputs = [picture, prompt, keep, method], [kept, full, pruned, times, keep]
        # One event: a number that is typed in is released, and then the button clicked.
        triggers = [button.click, prompt.submit, keep.release]
        gradio.on(triggers, ask, inputs, outputs, api_name="ask", trigger_mode="once")
    return blocks


def answer(
    model: Any, processor: Any, path: str | None, prompt: str, keep: int, method: str, length: int
) -> tuple[Any, ...]:
    """What the page shows: picture, both answers, times, and the slider with the right range."""
    import gradio

    from . import model_demo, overlay

    if not path:
        raise UsageError("picture: expected one, got none: upload it first")
    if not prompt.strip():
        raise UsageError("question: expected some words, got none")
    photo = photos.open_photo(path)
    answers, views = model_demo.compare(
        model, processor, photo, prompt, [keep], length, method=method
    )
    full, few = answers
    picture = overlay.picture(views, few.kept, processor, side=model_demo.SIDE)
    lines = [
        f"{model_demo.counted(a)}: {a.first:.2f} s to the first token, {a.seconds:.2f} s in all."
        for a in answers
    ]
    cut = model_demo.crop(processor, photo)
    shown = "\n\n".join([*lines, *filter(None, [cut])])
    slider = gradio.update(maximum=full.tokens, value=min(keep, full.tokens))
    return picture, full.text, few.text, shown, slider
