"""``python docs/generate.py``: writes operators.md, the operators' stub and the table of models.

The first two are made of what the operators declare, the table in docs/compatibility.md of what the
families of models declare; tests hold them to it.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import zoprune_kernels
from zoprune_kernels.operators import OPERATORS
from zoprune_kernels.triton import register

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs/operators.md"
STUB = ROOT / "zoprune_kernels/operators/__init__.pyi"
COMPATIBILITY = ROOT / "docs/compatibility.md"
BEGIN, END = "<!-- models:begin -->", "<!-- models:end -->"
HEAD = """# Operators

Written by `python docs/generate.py` from the docstrings in `zoprune_kernels/operators/`. Each
operator is `torch.ops.zoprune.<name>`, with the schema below, and `zoprune_kernels.<name>`, the
same as a typed function. All are functional and inference-only (a derivative, backward or forward,
is an error), have fake kernels for `torch.compile`, and do not synchronise with the host on a GPU,
where wrong values, unlike shapes and dtypes, are therefore no error. Shapes are in brackets; `...`
is nothing, or B for a batch of images. Errors read
`zoprune::<op>: <argument>: expected <what>, got <what came>`.
"""


def stub() -> str:
    """Names and types of all operators; defaults stand in the operators' own files."""
    single = sorted(name for name in OPERATORS if not name.endswith("_varlen"))
    names = ", ".join(f'"{name}"' for name in sorted(OPERATORS))
    lines = ["# Written by docs/generate.py.", "", "from torch import Tensor", ""]
    lines.append("from ._register import OPERATORS as OPERATORS")
    lines += [f"from .{name} import {name} as {name}" for name in single]
    lines += ["", filled(f"__all__ = [{names}]"), ""]
    for name in sorted(set(OPERATORS) - set(single)):
        signature = OPERATORS[name].signature
        arguments: list[str] = []
        for p in signature.parameters.values():
            arguments += ["*"] if p.kind is p.KEYWORD_ONLY and "*" not in arguments else []
            default = "" if p.default is p.empty else " = ..."
            arguments.append(f"{p.name}: {p.annotation}{default}")
        returns = signature.return_annotation
        lines.append(filled(f"def {name}({', '.join(arguments)}) -> {returns}: ..."))
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """Text in lines that end at commas only."""
    glued = re.sub(r"(?<!,) ", "\0", text)
    return textwrap.fill(glued, 96, subsequent_indent="    ").replace("\0", " ")


def reference() -> str:
    """The operators in the order of the alphabet, each packed twin after its own."""
    order = sorted(OPERATORS, key=lambda name: (name.removesuffix("_varlen"), len(name)))
    index = ", ".join(f"[`{name}`](#{name})" for name in order)
    return "\n\n".join([HEAD + "\n" + index, *map(section, order)]) + "\n"


def section(name: str) -> str:
    function = getattr(zoprune_kernels, name)
    schema = filled(OPERATORS[name].schema)
    doc = re.sub(r":func:`(\w+)`", r"[`\1`](#\1)", inspect.getdoc(function) or "")
    blocks = [block for part in doc.split("\n\n") for block in markdown(part)]
    sources = ", ".join(f"[`{path}`](../{path})" for path in files(name.removesuffix("_varlen")))
    return "\n\n".join([f"## {name}", f"```\n{schema}\n```", *blocks, f"Files: {sources}"])


def files(name: str) -> list[str]:
    """Those of an operator, and of its twin, from the signature down to the kernels."""
    registered = re.compile(rf'(impl\(|kName = )"{name}"')
    bindings = (ROOT / "csrc/bindings").glob("*.cpp")
    binding = next(path.stem for path in bindings if registered.search(path.read_text()))
    found = [ROOT / f"zoprune_kernels/{layer}/{name}.py" for layer in ("operators", "reference")]
    if name in register.OPERATORS:
        found += [ROOT / f"zoprune_kernels/triton/{file}.py" for file in ("operators", name)]
    for folder in ("bindings", "cpu", "cuda"):
        found += sorted((ROOT / "csrc" / folder).glob(f"{binding}.*"))
    return [str(path.relative_to(ROOT)) for path in found if path.exists()]


def markdown(part: str) -> list[str]:
    """A paragraph, table or section of a docstring."""
    lines = part.split("\n")
    if set(lines[0]) == {"=", " "}:
        return [table(lines)]
    if lines[0] == "Example:":
        return ["```python\n" + textwrap.dedent("\n".join(lines[1:])) + "\n```"]
    if re.fullmatch(r"\w+:", lines[0]):
        body = textwrap.dedent("\n".join(lines[1:])).replace("``", "`")
        items = re.sub(r"\n +", " ", body).split("\n")
        if lines[0] in ("Args:", "Raises:"):
            items = [re.sub(r"^([\w, ]+): ", lambda m: named(m[1]), item) for item in items]
            return [f"**{lines[0][:-1]}**", "\n".join(items)]
        return [f"**{lines[0][:-1]}** {' '.join(items)}"]
    return [part.replace("``", "`")]


def named(arguments: str) -> str:
    return "- " + ", ".join(f"`{name}`" for name in arguments.split(", ")) + ": "


def table(lines: list[str]) -> str:
    """A simple reStructuredText table; a row without a first cell goes on with the one before."""
    spans = [match.span() for match in re.finditer("=+", lines[0])]
    rows: list[list[str]] = []
    for line in lines:
        if set(line) == {"=", " "}:
            continue
        cells = [line[start : end if end < spans[-1][1] else None].strip() for start, end in spans]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{a} {b}".strip() for a, b in zip(rows[-1], cells, strict=True)]
    escaped = [[cell.replace("``", "`").replace("|", r"\|") for cell in row] for row in rows]
    body = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([body[0], "|" + "---|" * len(spans), *body[1:]])


def models(document: str) -> str:
    """docs/compatibility.md with the table of what every architecture can."""
    from zoprune.hf.families import FAMILIES
    from zoprune.hf.families.versions import NOT_IN, OLDEST, SINCE

    plugin = (ROOT / "python/zoprune/vllm/plugin.py").read_text()
    served = set(re.findall(r'^ +"(\w+)": f"\{_HERE\}', plugin, re.M))
    lines = [
        "| class | transformers | keep per | videos | positions | vLLM |",
        "|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        for name in family.models:
            per = ", ".join(["image", "call", *filter(None, [family.groups])])
            positions = ", ".join(family.layouts)
            versions = SINCE.get(name, OLDEST)
            if name in NOT_IN:
                versions += ", not from {} until {}".format(*NOT_IN[name])
            cells = [f"`{name}`", versions, per]
            cells += ["yes" if "video" in family.inputs else "no", positions]
            lines.append(f"| {' | '.join([*cells, 'yes' if name in served else 'no'])} |")
    head, rest = document.split(BEGIN)
    table = "\n".join(lines)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    COMPATIBILITY.write_text(models(COMPATIBILITY.read_text()))
    REFERENCE.write_text(reference())
    STUB.write_text(stub())
