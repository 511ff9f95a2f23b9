"""That no server, worker or request goes unpruned by accident."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from . import plugin
from .options import KEEP, Options, is_option, misplaced

ASK = f"start the server with --hf-overrides '{{\"{KEEP}\": 64}}' (1.0 keeps all)"


class Loaded:
    """Goes with a model's configuration to each worker: where it arrives, the plug-in is loaded.

    A worker without the package fails to unpickle it; one whose VLLM_PLUGINS leaves the plug-in out
    loads it all the same. A stock model would take the first tokens of an image for the kept ones.
    """

    def __reduce__(self) -> tuple[Callable[[], Loaded], tuple[()]]:
        return _load, ()


def _load() -> Loaded:
    install()
    return Loaded()


def install() -> None:
    """The plug-in, and a look at every configuration and every request; once per process."""
    if not plugin.install():
        return
    from vllm.config import ModelConfig, VllmConfig
    from vllm.multimodal.processing import BaseMultiModalProcessor

    _after(ModelConfig, "__post_init__", check_model)
    _after(VllmConfig, "__post_init__", check_server)
    _before(BaseMultiModalProcessor, "apply", check_request)


def check_model(config: Any) -> None:
    """ValueError where an option stands where none is read; a pruned model gets its ``Loaded``."""
    name = misplaced(config.hf_config)
    if name:
        raise ValueError(f"zoprune: {name}: expected beside the model's own options, got it inside")
    given = getattr(config.multimodal_config, "mm_processor_kwargs", None)
    _refuse(given, "--mm-processor-kwargs")
    if Options.of(config.hf_config) is not None:
        object.__setattr__(config, "_zoprune", Loaded())


def check_server(config: Any) -> None:
    _refuse(config.additional_config, "--additional-config")


def check_request(processor: Any, inputs: Any, *args: Any, **kwargs: Any) -> None:
    """ValueError where a request asks an unpruned server for a budget."""
    names = [name for name in inputs.hf_processor_mm_kwargs if is_option(name)]
    if names and not hasattr(processor, "layout"):
        raise ValueError(
            f"zoprune: {names[0]}: expected a server that prunes, got one without: {ASK}"
        )


def _refuse(given: Any, where: str) -> None:
    names = [name for name in given if is_option(name)] if isinstance(given, Mapping) else []
    if names:
        raise ValueError(f"zoprune: {names[0]}: expected in --hf-overrides, got it in {where}")


def _after(owner: Any, method: str, check: Callable[[Any], None]) -> None:
    original = getattr(owner, method)

    @functools.wraps(original)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        check(self)
        return result

    setattr(owner, method, checked)


def _before(owner: Any, method: str, check: Callable[..., None]) -> None:
    original = getattr(owner, method)

    @functools.wraps(original)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(self, *args, **kwargs)
        return original(self, *args, **kwargs)

    setattr(owner, method, checked)
