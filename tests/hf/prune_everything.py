"""pytest plug-in: prunes every supported model that another test suite builds, keeping all tokens.

    PYTHONPATH=THIS_FOLDER ZOPRUNE_KEEP=1.0 python -m pytest -p prune_everything \
        tests/models/llava/test_modeling_llava.py

from a checkout of transformers' sources. Without ZOPRUNE_KEEP it prunes nothing, so that the same
command shows what fails unpruned. Models on "meta", and those that ``from_pretrained`` has not
filled yet, are left alone. ZOPRUNE_RESULTS names a file for the outcomes, of which
tests/hf/transformers_suite.py makes docs/compatibility.md's table.
"""

import functools
import json
import os
import threading
import weakref

_loading = threading.local()
_pruned = weakref.WeakSet()
_results = {"models": 0, "outcomes": {}}  # models pruned; of each test, by its id


def patch(cls, keep):
    """Prune what a class makes; returns what undoes it."""
    init, load = cls.__init__, cls.__dict__.get("from_pretrained")
    inherited = cls.from_pretrained.__func__

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if type(self).__name__ == cls.__name__:
            _prune(self, keep)

    @functools.wraps(inherited)
    def from_pretrained(c, *args, **kwargs):
        _loading.depth = getattr(_loading, "depth", 0) + 1
        try:
            output = inherited(c, *args, **kwargs)
        finally:
            _loading.depth -= 1
        _prune(output[0] if isinstance(output, tuple) else output, keep)
        return output

    def undo():
        cls.__init__ = init
        if load is None:
            del cls.from_pretrained
        else:
            cls.from_pretrained = load

    cls.__init__, cls.from_pretrained = __init__, classmethod(from_pretrained)
    return undo


def _prune(model, keep):
    import zoprune

    loading = getattr(_loading, "depth", 0)
    if not loading and model not in _pruned and not any(p.is_meta for p in model.parameters()):
        try:
            zoprune.prune(model, keep)
        except TypeError as error:  # Gemma 4 for sound alone
            if "one that reads images" not in str(error):
                raise
        _pruned.add(model)
        _results["models"] += 1


def pytest_configure(config):
    keep = os.environ.get("ZOPRUNE_KEEP")
    if keep is None:
        return
    import transformers
    from zoprune.hf.families import SUPPORTED

    for cls in filter(None, (getattr(transformers, name, None) for name in SUPPORTED)):
        patch(cls, float(keep) if "." in keep else int(keep))


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        # of a test with subtests the worst counts
        if _results["outcomes"].get(report.nodeid) != "failed":
            _results["outcomes"][report.nodeid] = report.outcome


def pytest_unconfigure(config):
    if path := os.environ.get("ZOPRUNE_RESULTS"):
        with open(path, "w") as file:
            json.dump(_results, file, indent=1, sort_keys=True)
