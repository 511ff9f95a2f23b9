"""A server with its worker processes, over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.vllm.engine import ENVIRONMENT

ARGUMENTS = [
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "8"),
    *("--num-gpu-blocks-override", "64"),  # few, so that all are in use early in a soak
    *("--limit-mm-per-prompt", '{"image": 3, "video": 0}', "--generation-config", "vllm"),
]


class Server:
    def __init__(self, folder: Path, log: Path, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {**os.environ, **ENVIRONMENT, "VLLM_CACHE_ROOT": str(log.parent / "cache")}
        del environment["VLLM_ENABLE_V1_MULTIPROCESSING"]  # a worker of its own
        environment["VLLM_LOGGING_LEVEL"] = "INFO"
        module = "vllm.entrypoints.openai.api_server"
        command = [sys.executable, "-m", module, "--model", str(folder), "--port", str(self.port)]
        self.log = log
        self.process = subprocess.Popen(
            [*command, *ARGUMENTS, *arguments],
            env=environment,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, seconds: float = 420) -> None:
        """Until it answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.log.read_text()[-4000:]}")
            try:
                return self.get("/health") and None
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        raise TimeoutError(self.log.read_text()[-4000:])

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read().decode()

    def chat(self, text: list[Any], keep: Any = None, new: int = 8, **more: Any) -> tuple[int, Any]:
        """Status and answer of a message whose parts are words and pictures."""
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": _url(part)}}
            for part in text
        ]
        body = {
            "model": self.get_model(),
            "messages": [{"role": "user", "content": content}],
            "max_tokens": new,
            "temperature": 0,
            "ignore_eos": True,
            "skip_special_tokens": False,
            **({} if keep is None else {"mm_processor_kwargs": {"zoprune_keep": keep}}),
            **more,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def get_model(self) -> str:
        if not hasattr(self, "model"):
            self.model = json.loads(self.get("/v1/models"))["data"][0]["id"]
        return self.model

    def metrics(self) -> dict[str, float]:
        """Our counters."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith("zoprune:")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def memory(self) -> int:
        """Bytes that the server and its workers hold."""
        group, total = os.getpgid(self.process.pid), 0
        for status in Path("/proc").glob("[0-9]*/statm"):
            try:
                if os.getpgid(int(status.parent.name)) == group:
                    total += int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except (ProcessLookupError, FileNotFoundError):
                continue
        return total

    def stop(self) -> None:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, how)
                self.process.wait(30)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _url(picture: Any) -> str:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
