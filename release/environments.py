"""Fresh environments, one per combination of versions, that share downloaded files through uv."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = (sys.executable, "-m", "uv")
TORCH = ("2.11.0", "2.13.0", "2.14.1", "2.15.0")  # oldest, of `make test`, ..., newest


class TooLong(Exception):
    """A command was not done within its limit; it and what it had started are stopped."""


def run(
    command: list,
    *,
    cwd: Path = ROOT,
    output: bool = False,
    check: bool = True,
    minutes: float | None = None,
    **environment: str,
) -> str:
    """Run a command; returns what it printed where that is asked for, else shows it."""
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE if output else None,
        text=True,
        start_new_session=minutes is not None,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=minutes and 60 * minutes)
        except BaseException as error:
            if minutes is not None:
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TooLong from None
            raise
    if check and process.returncode:
        print(printed or "", file=sys.stderr)
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return printed or ""


def indexes() -> dict[str, str]:
    """Where pip finds packages on this machine, uv shall, too: in uv's words."""
    names = {"find-links": "UV_FIND_LINKS", "extra-index-url": "UV_EXTRA_INDEX_URL"}
    found = {}
    for key in names:
        for command in (["get", f"global.{key}"], ["get", f":env:.{key}"]):
            pip = [sys.executable, "-m", "pip", "config", *command]
            done = subprocess.run(pip, capture_output=True, text=True, check=False)
            if done.returncode == 0:  # the environment's comes last and wins, as with pip
                found[names[key]] = " ".join(done.stdout.split())
    if found.get("UV_EXTRA_INDEX_URL"):
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip looks into all of them
    return {name: value for name, value in found.items() if name not in os.environ}


class Environment:
    """A virtual environment below a folder."""

    def __init__(self, name: str, *, python: str, folder: Path) -> None:
        self.name, self.version, self.folder = name, python, folder / f"venv-{name}"
        self.python = self.folder / "bin" / "python"

    def interpreter(self) -> str | None:
        """A Python of that version: pyenv's, what uv finds on the machine, or can download."""
        for found in Path.home().glob(f".pyenv/versions/{self.version}.*/bin/python"):
            return str(found)
        find = [*UV, "python", "find", "-q", self.version]
        if not (found := run(find, output=True, check=False).strip()):
            run([*UV, "python", "install", "-q", self.version], check=False)
            found = run(find, output=True, check=False).strip()
        return found or None

    def create(self) -> None:
        interpreter = self.interpreter()
        if interpreter is None:
            raise FileNotFoundError(f"Python {self.version} is not installed here")
        run([*UV, "venv", "-q", "--clear", "--python", interpreter, self.folder])

    def exists(self) -> bool:
        return self.python.exists()

    def install(self, *requirements: object, minutes: float | None = None) -> None:
        options = ["-q", "--reinstall-package", "zoprune_kernels", "--python", self.python]
        run([*UV, "pip", "install", *options, *requirements], minutes=minutes, **indexes())

    def pytest(
        self, folder: Path, *arguments: object, check: bool = True, minutes: float | None = None
    ) -> None:
        """Run tests from a folder that does not have the package; two processes."""
        # The environment's own tools first, and no package of the outer one.
        variables = {
            "PYTHONPATH": "",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
        }
        options = "-m pytest -q -rfE -n 2 -p no:cacheprovider".split()
        command = [self.python, *options, *arguments]
        run(command, cwd=folder, check=check, minutes=minutes, **variables)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def copy_tests(folder: Path) -> Path:
    """The tests and what they read, without the package: what is tested is the installed one."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("tests", "benchmarks", "audit", "csrc", "docs", "python/examples"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copy2(ROOT / part, folder / part)
    return folder
