"""``zoprune serve-demo`` in a headless browser, as a person uses it. Needs the extra [web]."""

from __future__ import annotations

import shutil
import subprocess
import sys
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytest.importorskip("gradio", reason="gradio is not installed: pip install -e '.[web]'")
pytest.importorskip("transformers", reason="transformers is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from zoprune.cli import main, serve_demo  # noqa: E402
from zoprune.cli.checkpoint import load, question  # noqa: E402

from tests.hf.checkpoint import save_llava  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed"),
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(str(save_llava(tmp_path_factory.mktemp("llava"))), "auto")


@pytest.fixture(scope="module")
def address(loaded):
    demo = serve_demo.page(*loaded, 4)
    yield serve_demo.launch(demo, "127.0.0.1", 0)
    demo.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_upload_ask_slide_and_compare(address, browser, loaded, photo, tmp_path):
    model, processor = loaded
    inputs = question(model, processor, Image.open(photo), "what is this ?")
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, -4:]
    expected = processor.decode(ids, skip_special_tokens=True)
    page = browser.new_page()
    page.set_default_timeout(240_000)  # a machine that is busy
    hosts = set()
    page.on("request", lambda request: hosts.add(urlparse(request.url).hostname))
    page.goto(address)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("picture: expected one, got none").first.wait_for()

    page.locator("input[type=file]").first.set_input_files(str(photo))
    page.get_by_label("Question").fill("what is this ?")
    page.get_by_label("number input for Visual tokens to keep").fill("3")
    page.wait_for_function("document.querySelectorAll('img').length > 0")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("3 of 16 tokens:").wait_for()
    assert page.get_by_label("Answer with all tokens").input_value() == expected
    assert page.get_by_label("Answer with the kept ones").input_value() != ""
    assert page.get_by_text("The middle 40 x 40 pixels").count() == 1

    slider = page.get_by_label("range slider for Visual tokens to keep")
    assert slider.get_attribute("max") == "16"  # the picture's tokens
    box = slider.bounding_box()
    slider.click(position={"x": 0.2 * box["width"], "y": box["height"] / 2})  # 1 + 0.2 * 15
    page.get_by_text("4 of 16 tokens:").wait_for()
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    assert {host for host in hosts if host} == {"127.0.0.1"}  # nothing comes from elsewhere


def test_a_port_in_use_is_an_error(address, loaded, capsys, monkeypatch):
    monkeypatch.setattr("zoprune.cli.checkpoint.load", lambda *arguments: loaded)
    port = str(urlparse(address).port)
    assert main(["serve-demo", "--model", "x/y", "--port", port]) == 2
    assert f"--port: cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_without_gradio_it_says_what_to_install():
    code = (
        "import sys; sys.modules.update(gradio=None)\n"
        "from zoprune.cli import main\n"
        "raise SystemExit(main(['serve-demo', '--model', 'x/y']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "the page needs gradio: pip install gradio" in done.stderr
