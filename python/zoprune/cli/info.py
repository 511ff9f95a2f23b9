"""Show what is installed and what would run where.

Versions, the native library, the backend of every operator on every device and why no faster one
runs, and the Hugging Face architectures that ``zoprune.prune`` takes.
"""

from __future__ import annotations

import argparse
from typing import Any

from .errors import UsageError
from .options import add_json, print_json

SUMMARY = "show what is installed and what would run where"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    try:
        from zoprune_kernels import info
    except (ImportError, OSError, RuntimeError) as error:
        raise UsageError(f"zoprune_kernels cannot be imported: {error}") from error

    optional = {name: info.version(name) for name in ("transformers", "vllm")}
    try:
        from ..hf.families import SUPPORTED as architectures
    except ImportError:  # transformers is missing, or too old
        architectures = ()
    if args.json:
        facts: dict[str, Any] = {name.strip(): value for name, value in info.facts()}
        facts |= optional | {"operators": info.choices(), "architectures": list(architectures)}
        print_json(facts)
        return 0
    print(info.report())
    print()
    for name, version in optional.items():
        print(f"{name:26}{version}")
    print("\nzoprune.prune takes " + (", ".join(architectures) or "nothing without transformers"))
    return 0
