"""``python -m release.hub``: assembles the source package in build/hub, builds and tests it here.

    python -m release.hub    # then, where there is Nix: cd build/hub && nix run .#build-and-copy

kernel-builder compiles each source file once, with the same flags for a backend. The CPU kernels
need one object for each instruction set: small files that set the target and include the kernel.
"""

from __future__ import annotations

import argparse
import ast
import base64
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import tomllib

from ..environments import ROOT, TORCH, Environment, run

OUT = ROOT / "build" / "hub"
PARTS = Path(__file__).parent
NAME, MODULE, VERSION = "zoprune-kernels", "zoprune_kernels", 1
VARIANT = f"torch-stable-abi{TORCH[0].replace('.', '')[:3]}-cpu-x86_64-linux"
TARGETS = {
    "scalar": "",
    "avx2": "avx2,fma,f16c",
    "avx512": "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512",
}
TARGETS["avx512bf16"] = TARGETS["avx512"] + ",avx512bf16"
TARGETS["amx"] = TARGETS["avx512bf16"] + ",amx-tile,amx-bf16"
CXX_FLAGS = ["-O3", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden"]
REGISTRATION = """#pragma once
#include <Python.h>
#define ZOPRUNE_INIT(name) PyInit_##name
#define ZOPRUNE_MODULE(name)                                                              \\
  PyMODINIT_FUNC ZOPRUNE_INIT(name)() {                                                   \\
    static PyModuleDef module = {PyModuleDef_HEAD_INIT, #name, nullptr, 0, nullptr};      \\
    return PyModule_Create(&module);                                                      \\
  }
#define REGISTER_EXTENSION(name) ZOPRUNE_MODULE(name)
"""


def wrapper(kernel: str, isa: str) -> str:
    """A source file that compiles one kernel for one instruction set."""
    code = f'#define ZOPRUNE_ISA {isa}\n#include "{kernel}"\n'
    if isa == "scalar":
        return code
    return f'#if defined(__x86_64__)\n#pragma GCC target("{TARGETS[isa]}")\n{code}#endif\n'


def section(title: str, /, **options: object) -> str:
    lines = [f"[{title}]"]
    for key, value in options.items():
        lines.append(f"{key.replace('_', '-')} = {json.dumps(value, indent=2)}")
    return "\n".join(lines) + "\n"


def assemble() -> None:
    """Everything that the hub's builder reads, from what git knows of this tree."""
    for part in ("csrc", "kernels", "torch-ext", "tests", "build.toml"):
        path = OUT / part
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    listed = run(["git", "ls-files", "csrc", MODULE], output=True).split()
    kernels = []
    for name in filter(lambda name: (ROOT / name).exists(), listed):
        if name.startswith(f"{MODULE}/testing"):
            continue  # what tests and benchmarks use
        target = OUT / ("torch-ext" if name.startswith(MODULE) else "") / name
        if is_kernel := re.match(r"csrc/cpu/(?!isa)(.*)\.cpp$", name):
            # Included by its wrappers: the builder must see, and must not compile it.
            target = target.with_suffix(".inc.h")
            for isa in TARGETS:
                path = OUT / "kernels" / isa / f"{is_kernel[1]}.cpp"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(wrapper(f"cpu/{is_kernel[1]}.inc.h", isa))
                kernels.append(str(path.relative_to(OUT)))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"][
        "Repository"
    ]
    shutil.copy2(PARTS / "namespace.py", OUT / "torch-ext" / MODULE)
    shutil.copy2(PARTS / "torch_binding.cpp", OUT / "torch-ext")
    shutil.copy2(PARTS / "flake.nix", OUT)
    shutil.copy2(ROOT / "LICENSE", OUT)
    (OUT / "CARD.md").write_text(
        (PARTS / "CARD.md").read_text().replace("{repository}", repository)
    )
    (OUT / "tests").mkdir()
    shutil.copy2(PARTS / "test_kernel.py", OUT / "tests")

    def sources(pattern: str, *without: str) -> list[str]:
        found = sorted(str(p.relative_to(OUT)) for p in OUT.glob(pattern) if p.is_file())
        return [name for name in found if not any(part in name for part in without)]

    common = {
        "depends": ["torch"],
        "include": ["csrc", "csrc/include"],
        "cxx_flags": CXX_FLAGS,
    }
    cuda = {
        "cuda_capabilities": ["8.0", "9.0a", "10.0a"],
        "cuda_flags": ["--fmad=false"],
        "src": [*sources("csrc/cuda/**/*.cu*"), "csrc/bindings/common/cuda_call.cpp"],
    }
    shared = [*sources("csrc/bindings/**/*.cpp", "/cuda_call"), *sources("csrc/**/*.h")]
    general = {
        "name": NAME,
        "version": VERSION,
        "edition": 5,
        "license": "Apache-2.0",
        "source": repository,
        "backends": ["cpu", "cuda"],
    }
    toml = [
        section("general", **general),
        section("general.hub", repo_id=f"zoprune/{NAME}"),
        section(
            "torch",
            include=common["include"],
            cxx_flags=CXX_FLAGS,
            src=["torch-ext/torch_binding.cpp", "csrc/cpu/isa.cpp", *shared],
        ),
        section("torch.stable-abi", cpu="2.11", cuda="2.11"),
        section("kernel.cpu", backend="cpu", **common, src=kernels),
        section("kernel.cuda_host", backend="cuda", **common, src=kernels),
        section("kernel.cuda", backend="cuda", **common, **cuda),
    ]
    (OUT / "build.toml").write_text("\n".join(toml))


def check() -> None:
    """What the hub demands and can be seen without its builder."""
    build = tomllib.loads((OUT / "build.toml").read_text())
    named = set(build["torch"]["src"]).union(*(k["src"] for k in build["kernel"].values()))
    assert all((OUT / name).is_file() for name in named)
    tree = {p for p in (OUT / "csrc").rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh")}
    unnamed = {str(p.relative_to(OUT)) for p in tree} - named - {"csrc/baseline.cpp"}
    assert not unnamed, f"in no section of build.toml: {sorted(unnamed)}"
    allowed = sys.stdlib_module_names | {"torch", "triton"}
    for path in (OUT / "torch-ext").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [str(node.module)]
            assert all(m.split(".")[0] in allowed for m in modules), f"{path}: {modules}"


def build_here() -> Path:
    """The CPU variant as kernel-builder lays it out, by this machine's compiler."""
    environment = Environment("hub", python="3.11", folder=ROOT / "build" / "release")
    if not environment.python.exists():
        environment.create()
        environment.install(f"torch=={TORCH[1]}", "pytest", "kernels>=0.17", "numpy")
    # The hub's own parser.
    run([environment.python, "-c", "from kernels._rust import Build; Build.open('.')"], cwd=OUT)
    include = Path(
        run(
            [environment.python, "-c", "import torch; print(torch.__path__[0])"], output=True
        ).strip()
    )
    build = tomllib.loads((OUT / "build.toml").read_text())
    identity = hashlib.sha256()
    for path in sorted(p for p in OUT.glob("[ckt]*/**/*") if p.is_file()):
        identity.update(path.read_bytes())
    namespace = f"_{MODULE}_cpu_{identity.hexdigest()[:7]}"
    objects = ROOT / "build" / "release" / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    (objects / "registration.h").write_text(REGISTRATION)
    launcher = ["ccache"] if shutil.which("ccache") else []
    flags = [*CXX_FLAGS, "-std=c++17", "-fPIC", "-DNDEBUG", "-DCPU_KERNEL"]
    flags += [f"-DTORCH_EXTENSION_NAME={namespace}", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    flags += ["-DPy_LIMITED_API=0x03090000", "-Wno-maybe-uninitialized"]
    for folder in (objects, OUT / "csrc", OUT / "csrc/include"):
        flags += ["-I", str(folder)]
    for folder in (include / "include", sysconfig.get_path("include")):
        flags += ["-isystem", str(folder)]

    def compile_one(source: str) -> Path:
        target = objects / f"{source.replace('/', '_')}.o"
        run([*launcher, "g++", *flags, "-c", OUT / source, "-o", target])
        return target

    sources = build["torch"]["src"] + build["kernel"]["cpu"]["src"]
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        compiled = list(pool.map(compile_one, [s for s in sources if s.endswith(".cpp")]))
    variant = OUT / "build" / VARIANT
    shutil.rmtree(OUT / "build", ignore_errors=True)
    shutil.copytree(OUT / "torch-ext" / MODULE, variant)
    library = variant / f"{namespace}.abi3.so"
    torch_cpu = include / "lib" / "libtorch_cpu.so"
    run(["g++", "-shared", *compiled, torch_cpu, "-ldl", "-o", library])
    (variant / "_ops.py").write_text(
        f"import torch\nfrom . import {namespace}\nops = torch.ops.{namespace}\n\n\n"
        f'def add_op_namespace_prefix(op_name: str):\n    return f"{namespace}::{{op_name}}"\n'
    )
    files = {
        str(p.relative_to(variant)): base64.b64encode(
            hashlib.sha256(p.read_bytes()).digest()
        ).decode()
        for p in sorted(variant.rglob("*"))
        if p.is_file()
    }
    metadata = {
        "name": NAME,
        "id": namespace,
        "version": VERSION,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": "cpu"},
        "digest": {"algorithm": "sha256", "files": files},
    }
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2))
    return environment.python


def main() -> None:
    parser = argparse.ArgumentParser(prog="release.hub", description=__doc__)
    parser.add_argument("--no-build", action="store_true", help="assemble and check only")
    arguments = parser.parse_args()
    assemble()
    check()
    print(f"assembled: {OUT}")
    if not arguments.no_build:
        python = build_here()
        command = [python, "-m", "pytest", "-q", "-W", "ignore", "tests/test_kernel.py"]
        run(command, cwd=OUT, PYTHONPATH="", HF_HUB_OFFLINE="1")


if __name__ == "__main__":
    main()
