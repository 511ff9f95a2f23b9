"""Image pruning in vLLM, as a plug-in: ``vllm serve MODEL --hf-overrides '{"zoprune_keep": 64}'``.

vLLM calls ``register`` in each of its processes (entry point group ``vllm.general_plugins``).
Without the option no class of vLLM is replaced. See docs/vllm.md.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

logger = logging.getLogger("vllm.zoprune")


def register() -> None:
    """Teach vLLM the option ``zoprune_keep``; may be called several times.

    vLLM logs a plug-in's exception and starts without it. So a failure here logs, and refuses
    every model with the option: a server must not start unpruned by accident.
    """
    try:
        from .guard import install

        install()
    except Exception as error:
        logger.exception("zoprune: the plug-in failed to load; models with zoprune_keep refused")
        _refuse(error)


def _refuse(cause: Exception) -> None:
    try:
        from vllm.config import ModelConfig

        original = ModelConfig.__post_init__

        def __post_init__(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            names = [name.lower() for name in vars(self.hf_config)]
            if any(name.startswith(("zoprune", "zooprune")) for name in names):
                raise RuntimeError(f"zoprune: the plug-in failed to load: {cause}") from cause

        ModelConfig.__post_init__ = __post_init__
    except Exception:
        if any("zoprune_" in argument for argument in sys.argv):
            sys.exit(f"zoprune: the plug-in failed to load: {cause}")
