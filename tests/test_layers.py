"""Who imports whom: no circle in either package, and no arrow upward in ``zoprune_kernels``."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"zoprune_kernels": ROOT / "zoprune_kernels", "zoprune": ROOT / "python/zoprune"}
# From the leaves up; a module or folder imports from its own line's folder and from lines above.
LAYERS = [
    ("environment", "methods", "namespace", "philox"),
    ("checks", "_torch", "_native"),
    ("reference",),
    ("pipeline",),
    ("operators",),
    ("triton",),
    ("backend",),
    ("info", ""),
    ("testing",),
]


def modules(package: str) -> dict[str, Path]:
    """Name of each module, and its file."""
    root = SOURCES[package]
    names = {}
    for path in sorted(root.rglob("*.py")):
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(source: str, name: str, is_package: bool, known: set[str]) -> set[str]:
    """The known modules that a module names in imports, also in those within functions and in calls
    of ``import_module``.

    Importing a package's submodule is no arrow to the package: its ``__init__`` is on its way then.
    """
    found: set[str] = set()
    nodes = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if not is_for_type_checkers(node):
            nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = name.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                found.add(submodule if submodule in known else origin)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            package = name if is_package else name.rpartition(".")[0]
            if isinstance(node.args[0], ast.Constant):
                found.add(importlib.util.resolve_name(node.args[0].value, package))
    return (found & known) - {name}


def graph(package: str) -> dict[str, set[str]]:
    files = modules(package)
    return {
        name: imports(path.read_text(), name, path.name == "__init__.py", set(files))
        for name, path in files.items()
    }


def circle(arrows: dict[str, set[str]]) -> list[str] | None:
    """Modules that import one another in a circle, or None."""
    done: set[str] = set()

    def search(path: list[str]) -> list[str] | None:
        for other in sorted(arrows[path[-1]] - done):
            if other in path:
                return [*path[path.index(other) :], other]
            if found := search([*path, other]):
                return found
        done.add(path[-1])
        return None

    return next((found for name in arrows if name not in done and (found := search([name]))), None)


@pytest.mark.parametrize("package", SOURCES)
def test_no_circle(package):
    assert circle(graph(package)) is None


def test_no_arrow_upward():
    def layer(name: str) -> tuple[int, str]:
        top = [*name.split("."), ""][1]
        return next(i for i, tops in enumerate(LAYERS) if top in tops), top

    for name, others in graph("zoprune_kernels").items():
        for other in others:
            (ours, top), (theirs, other_top) = layer(name), layer(other)
            assert theirs < ours or top == other_top, f"{name} imports {other}"


def test_a_circle_is_seen():
    """Also through a function's import; what only type checkers read is none."""
    known = {"p", "p.a", "p.b", "p.c"}
    text = "def f():\n    from . import b\n"
    assert imports(text, "p.a", False, known) == {"p.b"}
    assert imports("from .c import x\nimport torch", "p.b", False, known) == {"p.c"}
    assert imports("from .a import f", "p", True, known) == {"p.a"}
    called = "import importlib\ndef f():\n    importlib.import_module('.b', __package__)\n"
    assert imports(called, "p.a", False, known) == {"p.b"}
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import a\n"
    assert imports(hidden, "p.c", False, known) == set()
    assert circle({"p": {"p.a"}, "p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": set()}) is None
    assert circle({"p": {"p.a"}, "p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.a"}}) == [
        "p.a",
        "p.b",
        "p.c",
        "p.a",
    ]
