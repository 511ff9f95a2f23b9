"""The documents against the tree: links, anchors, paths, commands, code blocks, variables."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs", ".github", "release/hub")
DOCUMENTS = [p for folder in FOLDERS for p in sorted((ROOT / folder).glob("*.md"))]
SKIPPED = {".git", ".venv", "build", "dist", "__pycache__"}
EXTENSIONS = r"py|pyi|md|h|cuh|cu|cpp|txt|toml|json|png|sh|yml|cff"
# Written by a command or by the reader, or another project's.
FOREIGN = re.compile(
    r"build\.toml|proofs\.json|(report|part)\.(json|log)|kept\.png|photo\.jpg|part\.json|<|DIR/|dist/|build/|vllm/multimodal/"
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.M | re.S)
COMMANDS = re.compile(r"(?:^|`|\$ |&& |or )(make|python3? -m|pytest|pip install) ([^`\n#|]*)", re.M)


def each(documents: list[Path] = DOCUMENTS) -> pytest.MarkDecorator:
    names = [str(path.relative_to(ROOT)) for path in documents]
    return pytest.mark.parametrize("document", documents, ids=names)


def prose(text: str) -> str:
    return FENCE.sub("", text)


def blocks(document: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of the code blocks in one of the languages."""
    text = document.read_text()
    for found in FENCE.finditer(text):
        if found[2] in languages:
            indent = found[1]
            code = "".join(line.removeprefix(indent) for line in found[3].splitlines(True))
            yield text[: found.start()].count("\n") + 2, code


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(document.read_text()), re.M):
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = found[slug] = found.get(slug, -1) + 1
        result.add(f"{slug}-{number}" if number else slug)
    return result


@pytest.fixture(scope="module")
def files() -> set[str]:
    """All files and folders, from the root."""
    found = set()
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in SKIPPED and not f.endswith(".egg-info")]
        found |= {str((Path(folder) / name).relative_to(ROOT)) for name in (*names, *folders)}
    return found


def expand(path: str) -> list[str]:
    """``a/{b,c}.d`` -> ``a/b.d``, ``a/c.d``"""
    parts = [p.split(",") for p in re.split(r"[{}]", path)] if "{" in path else [[path]]
    return ["".join(chosen) for chosen in itertools.product(*parts)]


@each()
def test_links(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"\w+:", target) or target.startswith("{"):
            continue
        path, _, anchor = target.partition("#")
        linked = document if not path else document.parent / path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@each()
def test_named_paths(document, files):
    """A file may be named by the end of its path, as in ``hf/compat.py``."""
    text = prose(document.read_text())
    top = "docs|tests|csrc|python|zoprune_kernels|benchmarks|release|audit"
    patterns = (
        rf"(?<![\w/.@:+-])((?:{top})/[\w./{{}},*<>-]+)",  # from the root
        rf"`((?:[\w./{{}},*<>-]+)\.(?:{EXTENSIONS}))`",  # in code
    )
    for path in {p.rstrip(".,") for pattern in patterns for p in re.findall(pattern, text)}:
        if FOREIGN.search(path):
            continue
        for one in expand(path.rstrip("/")):
            if "*" in one:
                assert list(ROOT.glob(one)), path
            else:
                assert one in files or any(f.endswith(f"/{one}") for f in files), path


@each()
def test_python_compiles(document):
    for line, code in blocks(document, "python", "py"):
        if code.startswith(">>>"):
            code = "".join(e.source for e in doctest.DocTestParser().get_examples(code))
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        compile("\n" * (line - 1) + code, str(document), "exec", flags)


@each()
def test_commands_exist(document, files):
    text = document.read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)", makefile, re.M)[1].split()
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    for tool, rest in COMMANDS.findall(text):
        words = [word for word in rest.split() if not word.startswith(("-", "'-"))]
        first = words[0].strip(".,;:)") if words else ""
        if tool == "make" and re.match(r"[a-z][a-z0-9-]*$", first):
            assert first in targets, rest
        elif tool.startswith("python") and first.split(".")[0] in ("zoprune", "zoprune_kernels"):
            assert importlib.util.find_spec(first), rest
        elif tool.startswith("python") and f"{first.split('.')[0]}" in files:
            path = first.replace(".", "/")
            assert {f"{path}.py", f"{path}/__main__.py"} & files, rest
        elif tool == "pytest" and "/" in first:
            assert first in files, rest
        elif tool == "pip install":
            for names in re.findall(r"(?:zoprune_kernels|\.)\[([\w,]+)\]", rest):
                assert set(names.split(",")) <= set(extras), rest


@each()
def test_variables_are_read_somewhere(document):
    named = set(re.findall(r"\bZOPRUNE_[A-Z_]+\b", document.read_text()))
    folders = ("zoprune_kernels", "python", "csrc", "benchmarks", "tests", "release")
    tops = [ROOT / name for name in ("setup.py", "build_backend.py", "CMakeLists.txt", "Makefile")]
    if not named or not tops[-1].exists():
        return
    sources = [
        p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in (".py", ".cpp", ".h")
    ]
    code = "".join(p.read_text() for p in (*sources, *tops) if p != Path(__file__))
    assert not {name for name in named if name not in code}


def test_nothing_is_installed_from_an_index_before_the_first_release():
    if "unreleased" not in (ROOT / "CHANGELOG.md").read_text():
        return
    for document in DOCUMENTS:
        if document.name != "RELEASING.md":
            found = re.findall(r"pip install [^\n]*\bzoprune[_-]kernels", document.read_text())
            assert not found, (document.name, found)


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        ("[a](docs/no.md)", test_links),
        ("[a](#no)\n\n# yes", test_links),
        ("```python\nfor\n```", test_python_compiles),
    ],
)
def test_what_is_wrong_is_found(wrong, test, tmp_path):
    document = tmp_path / "a.md"
    document.write_text(wrong)
    with pytest.raises((AssertionError, SyntaxError)):
        test(document)


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        ("see tests/no.py", test_named_paths),
        ("`csrc/cpu/select.{h,cuh}`", test_named_paths),
        ("`make nothing`", test_commands_exist),
        ("`pip install '.[nothing]'`", test_commands_exist),
        ("`python -m benchmarks.nothing`", test_commands_exist),
    ],
)
def test_what_does_not_exist_is_found(wrong, test, tmp_path, files):
    document = tmp_path / "a.md"
    document.write_text(wrong)
    with pytest.raises(AssertionError):
        test(document, files)


def test_the_table_of_models_is_up_to_date():
    """If not: python docs/generate.py."""
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    written = generate.COMPATIBILITY.read_text()
    assert generate.models(written) == written


def test_every_page_is_in_the_navigation():
    pages = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@each()
def test_exact_is_never_said_of_answers(document):
    """Only of the algorithm and its arithmetic."""
    for sentence in re.split(r"[.:;]\s|\n\s*\n|\|", prose(document.read_text())):
        if re.search(r"\bexact(ly)?\b", sentence, re.I) and not re.search(r"\bnever\b", sentence):
            assert not re.search(r"\b(answers?|accuracy|quality|lossless)\b", sentence), sentence
