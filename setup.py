"""Builds zoprune_kernels/libzoprune.so: a setuptools `build_ext` that drives CMake.

The environment decides: ZOPRUNE_CUDA=ON|OFF|AUTO (AUTO: if torch has CUDA), CUDAARCHS, MAX_JOBS,
CMAKE_ARGS, and ZOPRUNE_PURE_PYTHON=1, which installs without the native library.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).parent.resolve()
PURE_PYTHON = os.environ.get("ZOPRUNE_PURE_PYTHON") == "1"
# pip does not put a virtual environment's own cmake and ninja on PATH
SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def require(found: str | None, what: str) -> str:
    if found is None:
        raise SystemExit(
            f"zoprune_kernels: {what} was not found. The native library needs torch >= 2.11 (pip "
            "install --no-build-isolation), a C++17 compiler and CMake >= 3.18. Install with "
            "ZOPRUNE_PURE_PYTHON=1 to go without: every operator then runs the PyTorch reference."
        )
    return found


def long_description() -> str:
    """README.md for a page that has no files beside it: relative links lead to the repository."""
    repository = re.search(r'^Repository = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    text = (ROOT / "README.md").read_text()
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)", rf"![\1]({repository}/raw/main/", text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)", rf"[\1]({repository}/blob/main/", text)


def cmake_options() -> list[str]:
    """What the environment asks for; CMAKE_ARGS comes last and wins."""
    spec = importlib.util.find_spec("torch")
    torch_init = require(spec.origin if spec else None, "torch")
    options = [f"-DTORCH_DIR={Path(torch_init).parent}"]
    for option, variable in (
        ("ZOPRUNE_CUDA", "ZOPRUNE_CUDA"),
        ("CMAKE_CUDA_ARCHITECTURES", "CUDAARCHS"),
    ):
        # Unset where nothing is asked for: an earlier build's choice must not stay in the cache.
        asked = os.environ.get(variable)
        options.append(f"-D{option}={asked}" if asked else f"-U{option}")
    if ninja := shutil.which("ninja", path=SEARCH_PATH):
        options += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    return options + shlex.split(os.environ.get("CMAKE_ARGS", ""))


class CMakeBuild(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        # The library has no PyInit, hence no Python ABI tag in its name.
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        cmake = require(shutil.which("cmake", path=SEARCH_PATH), "cmake")
        require(
            os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++"), "a C++ compiler"
        )
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / "cmake"
        jobs = os.environ.get("MAX_JOBS") or str(min(len(os.sched_getaffinity(0)), 8))
        configure = [cmake, "-S", ROOT, "-B", build, "--log-level=NOTICE", *cmake_options()]
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", build, "--parallel", jobs], check=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        # A new file: overwriting would crash processes that have the library loaded.
        output.unlink(missing_ok=True)
        shutil.copy2(build / "libzoprune.so", output)


class PlatformWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        # Stable ABI and no PyInit: one wheel serves every Python 3 and every torch >= 2.11.
        platform = super().get_tag()[2]
        return "py3", "none", "any" if PURE_PYTHON else platform


setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    ext_modules=[] if PURE_PYTHON else [Extension("zoprune_kernels.libzoprune", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
)
