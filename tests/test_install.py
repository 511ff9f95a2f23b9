"""README's installation, typed as it stands into a new environment in a copy of the tree."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

from tests.source_tree import ROOT, needs_sources

BUILD_FILES = ("setup.py", "build_backend.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in")
LEFT_OUT = ("build", "dist", "tests", "benchmarks", "*.so", "*.egg-info", "__pycache__", ".*")
USE = """
import zoprune, zoprune_kernels, torch
from zoprune_kernels import _native
assert zoprune_kernels.__file__.startswith({folder!r}), zoprune_kernels.__file__
assert _native.LIBRARY.exists()
scores, keys = torch.rand(1, 577), torch.randn(1, 577, 64)
assert torch.ops.zoprune.select(scores, keys, 64).shape == (1, 64)
"""


@needs_sources
@pytest.mark.proves(*BUILD_FILES)
@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("g++")), reason="needs bash, g++")
def test_the_readmes_installation(tmp_path):
    (line,) = re.findall(r"^pip install .*$", (ROOT / "README.md").read_text(), re.M)
    clone, environment = tmp_path / "clone", tmp_path / "environment"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*LEFT_OUT))
    venv.create(environment, with_pip=True)
    # It has torch and more, as the README asks for: those of the environment that runs the tests.
    python = environment / "bin" / "python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    seen = [path for path in sys.path if path.endswith("site-packages")]
    seen.append(sysconfig.get_path("purelib"))
    (tmp_path / own / "others.pth").write_text("\n".join(dict.fromkeys(seen)))
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables |= {"PATH": path, "ZOPRUNE_CUDA": "OFF"}
    run = {"env": variables, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-c", line], cwd=clone, **run)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    shutil.rmtree(clone)
    done = subprocess.run([python, "-c", USE.format(folder=own)], cwd=tmp_path, **run)
    assert done.returncode == 0, done.stderr
    command = [environment / "bin" / "zoprune", "info"]
    done = subprocess.run(command, cwd=tmp_path, **run)
    assert done.returncode == 0 and "score_and_select" in done.stdout, done.stderr
