"""The commit that is measured."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path


def commit() -> str:
    """``ZOPRUNE_COMMIT`` where it is set, else the commit that is checked out.

    ``-dirty`` where anything but results differs from it, "unknown" without git.
    """
    if given := os.environ.get("ZOPRUNE_COMMIT"):
        return given
    git = partial(
        subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20
    )
    try:
        name = git(["git", "describe", "--always"]).stdout.strip()
        others = ["git", "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)benchmarks/results"]
        return f"{name}{'-dirty' if git(others).returncode else ''}" if name else "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
