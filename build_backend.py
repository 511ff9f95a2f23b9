"""The build backend: that of setuptools, with CMake options from pip and tools only where missing.

    pip install . -C cmake.define.ZOPRUNE_CUDA=ON -C build.jobs=8

``cmake.define.NAME=VALUE`` becomes ``-DNAME=VALUE`` and ``cmake.args`` is passed on as it is, as
with scikit-build-core; so is the environment variable ``CMAKE_ARGS``. torch, CMake and ninja are
requested from the index only where this interpreter or the machine has none.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
from collections.abc import Mapping
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

DEFINE = "cmake.define."
KNOWN = f"{DEFINE}NAME, cmake.args, build.jobs, editable_mode, --build-option and --global-option"


def _requirements(_settings: Mapping[str, Any] | None = None) -> list[str]:
    if os.environ.get("ZOPRUNE_PURE_PYTHON") == "1":
        return []
    needed = [] if importlib.util.find_spec("torch") else ["torch>=2.11"]
    needed += [] if shutil.which("cmake") else ["cmake>=3.18"]
    return needed + ([] if shutil.which("ninja") else ["ninja"])


def _settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Hand CMake's options to setup.py through the environment; returns what setuptools takes."""
    rest, options = {}, []
    for name, value in (settings or {}).items():
        values = value if isinstance(value, list) else [value]
        if name.startswith(DEFINE):
            options.append(f"-D{name.removeprefix(DEFINE)}={values[-1]}")
        elif name == "cmake.args":
            options += values
        elif name == "build.jobs":
            os.environ["MAX_JOBS"] = values[-1]
        elif name in ("editable_mode", "--build-option", "--global-option"):
            rest[name] = value
        else:
            raise SystemExit(f"zoprune_kernels: config setting: expected {KNOWN}, got {name!r}")
    if options:
        given = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        os.environ["CMAKE_ARGS"] = shlex.join(given + [o for o in options if o not in given])
    return rest


def get_requires_for_build_wheel(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(_settings(config_settings)), *_requirements()]


def build_wheel(
    wheel_directory: str,
    config_settings: Mapping[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    settings = _settings(config_settings)
    return build_meta.build_wheel(wheel_directory, settings, metadata_directory)


get_requires_for_build_editable = get_requires_for_build_wheel


def build_editable(
    wheel_directory: str,
    config_settings: Mapping[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    settings = _settings(config_settings)
    return build_meta.build_editable(wheel_directory, settings, metadata_directory)
