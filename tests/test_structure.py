"""The map of the code: which part may import which, and what stays lazy."""

import ast
import builtins
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import flows

ROOT = Path(__file__).parent.parent / "flows"

# Each part and the parts it may import. Files with a leading underscore are open to all.
ALLOWED = {
    "adapters": {"architectures", "bijectors", "distributions", "supports"},
    "conditioners": set(),
    "divergences": set(),
    "training": set(),
    "bijectors": {"conditioners"},
    "supports": {"bijectors"},
    "distributions": {"bijectors", "divergences", "supports"},
    "architectures": {"bijectors", "conditioners", "distributions", "supports"},
    "serialization": {"bijectors", "conditioners", "distributions", "supports"},
    "density": {"conditioners", "distributions", "supports", "training"},
    "targets": {"adapters", "supports", "training"},
    "variational": {
        "adapters", "architectures", "bijectors", "distributions", "divergences", "plotting",
        "targets", "training",
    },
    "distillation": {
        "architectures", "bijectors", "conditioners", "density", "distributions", "divergences",
        "plotting", "supports", "training", "variational",
    },
    "calibration": {"plotting", "supports"},
    "frames": set(),
    "plotting": set(),
}  # fmt: skip


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "flows":
                yield from (f"flows.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part):
    files = list((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]
    used = {
        name.split(".")[1] for file in files for name in imports(file) if name.startswith("flows.")
    }
    assert {name for name in used - {part} if not name.startswith("_")} <= ALLOWED[part]


def test_every_part_is_on_the_map():
    parts = {path.stem for path in ROOT.iterdir() if not path.name.startswith(("_", "py."))}
    assert parts == set(ALLOWED)


def test_importing_flows_loads_nothing_heavy_until_it_is_asked_for():
    code = (
        "import sys, distrax, flax.nnx, optax; before = set(sys.modules); import flows;"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before});"
        "assert callable(flows.plotting.corner) and callable(flows.adapters.numpyro.AutoFlow)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"matplotlib", "arviz_stats", "numpyro", "orbax", "pandas", "sklearn", "torch"}
    assert not heavy & set(loaded)


def test_the_citation_is_of_this_version():
    assert f"version: {flows.__version__}\n" in (ROOT.parent / "CITATION.cff").read_text()


def unbound_names(code):
    """The names that code uses, and does not make itself."""
    bound, used = set(dir(builtins)), set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.alias():
                bound.add((node.asname or node.name).split(".")[0])
            case ast.arg():
                bound.add(node.arg)
            case ast.FunctionDef():
                bound.add(node.name)
            case ast.Name(ctx=ast.Store()):
                bound.add(node.id)
            case ast.Name():
                used.add(node.id)
    return used - bound


def test_examples_can_be_pasted():
    number = 0
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                examples = doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")
                code = "".join(example.source for example in examples)
                assert not unbound_names(code), (file.name, node.name)
                number += bool(code)
    assert number > 60
