"""What SECURITY.md promises: weights from safetensors only, and no network at import."""

import ast
from pathlib import Path

import pytest
import zoprune

import zoprune_kernels
from tests.test_build import python

PACKAGES = [Path(package.__file__).parent for package in (zoprune_kernels, zoprune)]
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
FORBIDDEN = ("pickle", "torch.load", "eval", "exec", "marshal", "shelve", "socket", "urllib")


def violations(source: str) -> list[str]:
    """Imports and calls of what must not be there, and models that may come from other formats."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            names = [ast.unparse(node.func)]
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if options.get("trust_remote_code", "False") != "False":
                found.append("trust_remote_code")
            model = names[0].endswith("from_pretrained") and "AutoModel" in names[0]
            if model and options.get("use_safetensors") != "True":
                found.append(f"{names[0]} without use_safetensors=True")
            if names == ["torch.load"] and options.get("weights_only") == "True":
                continue
        found += [name for name in names if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "-".join(path.parts[-2:]))
def test_no_pickle_and_no_code_from_elsewhere(path):
    assert violations(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "torch.load(path)",
        "eval(text)",
        "AutoModelForImageTextToText.from_pretrained(path)",
        "AutoConfig.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_each_of_them_would_be_found(line):
    assert violations(line)


def test_imports_open_no_connection_and_no_pickle():
    code = """if True:
        import sys, torch
        def refuse(event, arguments):
            if event.startswith(("socket.", "pickle.", "urllib.", "http.")):
                raise RuntimeError(f"{event} {arguments}")
        sys.addaudithook(refuse)
        import zoprune_kernels, zoprune, zoprune.adapters
        zoprune_kernels.select(torch.rand(8), torch.rand(8, 3), 2)
    """
    run = python(code)
    assert run.returncode == 0, run.stderr
