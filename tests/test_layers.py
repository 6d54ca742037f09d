"""Who may import whom: the house of ``docs/architecture.md``, enforced from the import statements.

Every import counts, wherever it stands: at the top of a file, inside a function or under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "netgraft"

# module: (the parts of netgraft it may import, the packages from outside it may import).
# ``name.*`` stands for a package and everything in it, ``*`` for all rows above. A row names only rows above it.
# Modules that share a ``name.*`` row may import each other; everybody may import ``errors`` and the standard library.
LAYERS: dict[str, tuple[str, str]] = {
    "errors": ("", ""),
    # the graph: never torch
    "ir.types": ("*", "numpy"),
    "ir.shapes": ("*", "numpy"),
    "ir.ops": ("*", "numpy"),
    "ir.node": ("*", "numpy"),
    "ir.digest": ("*", "numpy"),
    "ir.graph": ("*", "numpy"),
    "ir.carry": ("*", "numpy"),
    "ir.edit": ("*", "numpy"),
    "ir.text": ("*", "numpy"),
    "ir.model": ("*", "numpy"),
    "ir": ("*", ""),
    # where work is done: knows nothing of networks
    "engine": ("", ""),
    # what is searched over, and what it is judged by
    "candidate": ("ir.*", "numpy"),
    "metrics": ("ir.* candidate", "numpy"),
    "events": ("candidate", ""),
    # what of a network can be dropped
    "channels.atoms": ("", "numpy"),
    "channels.rules": ("ir.* channels.atoms", ""),
    "channels.analysis": ("ir.* channels.atoms channels.rules", "numpy"),
    "channels.resize": ("ir.* channels.atoms channels.analysis", "numpy"),
    "channels": ("channels.analysis channels.resize", ""),
    # between graphs and frameworks
    "convert.quiet": ("", "torch"),
    "convert.frozen": ("ir.*", "torch"),
    "convert.onnx_writer": ("ir.*", "numpy onnx ml_dtypes"),
    "convert.onnx_foreign": ("ir.* convert.onnx_writer", "numpy onnx onnxruntime torch"),
    "convert.operations": ("ir.* convert.frozen", "torch"),
    "convert.expressions": ("ir.* convert.onnx_foreign convert.operations", "torch"),
    "convert.lowering": ("ir.* convert.expressions convert.frozen convert.onnx_foreign convert.operations", "torch"),
    "convert.calls": ("ir.*", "torch"),
    "convert.naming": ("ir.*", "torch"),
    "convert.computed": ("ir.* convert.calls", "torch"),
    "convert.einsum": ("ir.*", ""),
    "convert.aten": ("ir.* convert.calls convert.einsum", ""),
    "convert.aten_layout": ("ir.* convert.calls", "numpy"),
    "convert.aliases": ("", "torch"),
    "convert.in_place": ("ir.* convert.aliases convert.calls convert.computed convert.naming", "torch"),
    "convert.program": (
        "ir.* convert.frozen convert.calls convert.computed convert.naming convert.aten convert.aten_layout "
        "convert.in_place",
        "numpy torch",
    ),
    "convert.training": ("ir.*", ""),
    "convert.decisions": ("", "torch"),
    "convert.to_torch": ("ir.* convert.frozen convert.operations convert.expressions convert.lowering", "numpy torch"),
    "convert.image_sizes": ("ir.* convert.lowering convert.to_torch", "torch"),
    "convert.from_torch": (
        "ir.* convert.onnx_foreign convert.quiet convert.expressions convert.calls convert.program convert.training "
        "convert.decisions convert.image_sizes",
        "torch",
    ),
    "convert.pickles": ("", "numpy"),
    "convert.autogo": ("ir.* convert.pickles", ""),
    "convert.pt2": ("ir.* convert.quiet", "torch"),
    "convert.code": ("ir.* convert.expressions", ""),
    "convert.scopes": ("ir.* convert.expressions convert.lowering convert.to_torch", ""),
    "convert.body": ("ir.* convert.code convert.expressions convert.scopes convert.to_torch", ""),
    "convert.source": ("ir.* convert.*", "torch"),
    "convert.onnx_frozen": (
        "ir.* convert.operations convert.to_torch convert.onnx_foreign convert.onnx_writer",
        "torch onnx",
    ),
    "convert.onnx_ops": ("ir.* convert.onnx_writer convert.onnx_foreign convert.onnx_frozen", "numpy"),
    "convert.onnx": (
        "ir.* convert.to_torch convert.onnx_writer convert.onnx_frozen convert.onnx_ops",
        "numpy torch onnx onnxruntime",
    ),
    "convert.onnx_file": ("", "onnx google numpy"),
    "convert.onnx_known": ("ir.*", "numpy onnx"),
    "convert.onnx_names": ("", "onnx torch"),
    "convert.onnx_graph": ("ir.* convert.onnx_foreign convert.onnx_file convert.onnx_names", "onnx"),
    "convert.onnx_reading": (
        "ir.* convert.frozen convert.operations convert.onnx_writer convert.onnx_foreign convert.onnx_file "
        "convert.onnx_known convert.onnx_names convert.onnx_graph",
        "numpy onnx torch",
    ),
    "convert.onnx_layers": ("ir.* convert.einsum convert.onnx_known convert.onnx_reading", "numpy"),
    "convert.onnx_arithmetic": ("ir.* convert.onnx_foreign convert.onnx_known convert.onnx_reading", "numpy"),
    "convert.onnx_rewriting": ("ir.*", "numpy"),
    "convert.onnx_patterns": ("ir.* convert.onnx_rewriting", "numpy"),
    "convert.from_onnx": ("ir.* convert.*", ""),
    "convert": ("", ""),
    "costs.analytic": ("ir.* candidate metrics", "numpy"),
    "costs.autogo": ("ir.*", ""),
    "costs.measured.*": ("ir.* convert.*", "numpy onnx onnxruntime openvino ai_edge_litert executorch torch"),
    "costs.frozen": ("ir.* convert.* costs.analytic", "torch"),
    "costs.arrays": ("", "numpy"),
    "costs.published.*": ("costs.arrays", "numpy pyarrow"),
    "costs.tables.*": ("ir.* costs.analytic costs.measured.*", "numpy scipy sklearn"),
    "costs": ("costs.analytic costs.autogo costs.frozen costs.measured.*", ""),
    # where new networks come from
    "segments.bpe": ("ir.*", "numpy"),
    "segments.bank": ("ir.* costs.analytic segments.bpe", "numpy"),
    "segments.file": ("ir.* segments.bpe segments.bank", "numpy"),
    "segments.mine": ("ir.* segments.bpe segments.bank", "numpy"),
    "segments": ("segments.bpe segments.bank segments.file segments.mine", ""),
    "fit.*": ("ir.*", "numpy scipy"),
    "loops.nest": ("ir.*", "numpy"),
    "loops.rewrites": ("ir.* loops.nest", ""),
    "loops.forms": ("loops.nest loops.rewrites", ""),
    "loops.lower": ("ir.* loops.nest", "numpy"),
    "loops": ("loops.nest loops.rewrites loops.forms loops.lower", ""),
    "mutations.*": ("ir.* channels.* segments.* fit loops.*", "numpy"),
    "tasks.device": ("", "torch"),
    "tasks.task": ("tasks.device", "torch"),
    "tasks.running": ("tasks.device tasks.task", "torch"),
    "tasks.judging": ("tasks.device tasks.task tasks.running", "torch"),
    "tasks.training": ("tasks.device tasks.task tasks.running", "torch"),
    "tasks.*": ("convert.* metrics", "numpy torch torchmetrics pyarrow PIL sklearn"),
    "proxies.*": ("ir.* convert.* tasks.*", "numpy torch"),
    # the search and its memory
    "spaces.families.*": ("ir.*", "numpy"),
    "spaces.tabular.*": ("ir.* convert.pickles costs.analytic spaces.families.*", "numpy pyarrow"),
    "spaces.*": ("ir.* candidate metrics mutations.*", "numpy"),
    "devices.*": ("costs.arrays spaces.families.*", "numpy scipy"),
    "study": ("ir.* candidate", "numpy safetensors"),
    "search.*": ("ir.* candidate metrics events engine mutations.* spaces.* study", "numpy scipy"),
    # sources of networks: plain torch modules, and the strings that name one
    "zoo.*": ("", "torch"),
    "sources": ("ir.* convert.* spaces.families.* zoo.*", "torch"),
    "data": ("ir.* convert.image_sizes tasks.*", ""),
    "predictor.*": ("ir.* candidate convert.* costs.* study sources", "numpy scipy torch safetensors"),
    # what a run gives back
    "export": ("ir.* convert.*", "numpy torch safetensors"),
    "report.*": ("ir.* candidate metrics study search.*", "jinja2 numpy"),
    "int8": ("ir.* convert.* costs.measured.* tasks.*", "numpy onnx onnxruntime torch"),
    "front": ("ir.* convert.* study export report.*", "torch"),
    # everything put together
    "recipes.*": ("*", "numpy torch"),
    "picture": ("ir.*", ""),
    "console": ("candidate events report.*", "rich"),
    "__init__": ("*", "torch"),
    "bench_commands": ("spaces.tabular.* search.* console", "numpy typer rich"),
    "device_commands": ("ir.* costs.measured.* devices.* spaces.tabular.*", "numpy typer rich"),
    "bank_commands": ("ir.* segments.* sources console picture", "numpy typer rich"),
    "predictor_commands": ("predictor.* sources console", "typer rich"),
    "table_commands": (
        "ir.* costs.measured.* costs.published.* costs.tables.* recipes.* sources console",
        "typer rich",
    ),
    "terminal": (
        "ir.* engine front report.* sources spaces.families.* study tasks.* zoo.* console",
        "torch typer rich",
    ),
    "recipe_command": ("data engine front mutations.* recipes.* study tasks.* table_commands terminal", "typer"),
    "run_commands": ("front mutations.* recipes.* recipe_command terminal", "typer"),
    "inspect_command": ("ir.* channels.* costs.* data mutations.* proxies.* console terminal", "numpy typer"),
    "quantize_command": ("ir.* data front int8 recipes.* report.* study tasks.* console terminal", "typer"),
    "measure_commands": ("console costs.measured.* table_commands terminal", "typer"),
    "cli": ("*", "numpy torch typer rich"),
}


def row_of(module: str, layers: dict[str, tuple[str, str]]) -> str | None:
    """The row that speaks for a module: its own name, or else the ``name.*`` it lies under."""
    if module in layers:
        return module
    parts = module.split(".")
    return next((row for n in range(len(parts), 0, -1) if (row := ".".join([*parts[:n], "*"])) in layers), None)


def covers(pattern: str, module: str) -> bool:
    """Whether ``pattern`` (a name or ``name.*``) stands for ``module``."""
    package = pattern.removesuffix(".*")
    return module == package or (pattern != package and module.startswith(package + "."))


def imports(path: Path, module: str, package: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a file of ``package`` imports."""
    is_package = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = [package.name] if module == "__init__" else [package.name, *module.split(".")]
                up = node.level - is_package
                base = ".".join(here[: len(here) - up] + ([base] if base else []))
            for alias in node.names:
                inner = package.parent.joinpath(*base.split("."), alias.name)
                is_module = inner.with_suffix(".py").is_file() or (inner / "__init__.py").is_file()
                yield node.lineno, f"{base}.{alias.name}" if is_module else base


def violations(package: Path, layers: dict[str, tuple[str, str]]) -> list[str]:
    """One line for each import that the table does not allow, and for each module that it does not know."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        module = ".".join(parts if parts == ("__init__",) or parts[-1] != "__init__" else parts[:-1])
        place = path.relative_to(package.parent).as_posix()
        row = row_of(module, layers)
        if row is None:
            found.append(f"{place}: no row for {module!r}; add one to LAYERS in tests/test_layers.py")
            continue
        inside, outside = (column.split() for column in layers[row])
        if "*" in inside:
            inside = list(layers)[: list(layers).index(row)]
        for line, name in imports(path, module, package):
            top, _, rest = name.partition(".")
            if top == package.name:
                target = rest or "__init__"
                allowed = any(covers(pattern, target) for pattern in ["errors", row, *inside])
            else:
                allowed = top in sys.stdlib_module_names or top in outside
            if not allowed:
                may = ", ".join([f"{package.name}.{p}" for p in inside] + outside) or "the standard library only"
                found.append(f"{place}:{line}: {row} may not import {name} (it may import: {may})")
    return list(dict.fromkeys(found))


def test_every_import_respects_the_layers() -> None:
    found = violations(PACKAGE, LAYERS)
    assert not found, "imports against the layer table:\n" + "\n".join(found)


def test_rows_name_only_rows_above_them() -> None:
    above: list[str] = []
    for row, (inside, _) in LAYERS.items():
        for pattern in inside.split():
            known = pattern == "*" or any(covers(pattern, other.removesuffix(".*")) for other in above)
            assert known, f"{row} names {pattern}, which is not above it"
        above.append(row)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small package ``house`` of two layers, with nothing wrong in it."""
    package = tmp_path / "house"
    (package / "ir").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "errors.py").write_text("import os\n")
    (package / "ir" / "__init__.py").write_text("from .graph import Graph\n")
    (package / "ir" / "graph.py").write_text("import numpy as np\nfrom house.errors import Oops\n")
    return package


SMALL: dict[str, tuple[str, str]] = {
    "errors": ("", ""),
    "ir.graph": ("", "numpy"),
    "ir": ("ir.graph", ""),
    "tools.*": ("ir.*", ""),
    "__init__": ("*", ""),
}


def test_checker_accepts_a_sound_tree(house: Path) -> None:
    assert violations(house, SMALL) == []


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("import torch", "torch"),
        ("import torch.nn as nn", "torch.nn"),
        ("from torch import nn", "torch"),
        ("def f():\n    import torch", "torch"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", "torch"),
        ("from house.ir import Graph", "house.ir"),
        ("from . import text", "house.ir.text"),
        ("from .. import Graph", "house"),
        ("import house", "house"),
        ("from house import tools", "house.tools"),
        ("from ..tools import saw", "house.tools.saw"),
    ],
)
def test_checker_names_file_line_and_import(house: Path, statement: str, name: str) -> None:
    tools = house / "tools"
    tools.mkdir()
    (tools / "__init__.py").write_text("")
    (tools / "saw.py").write_text("from house.ir import Graph\nfrom . import saw\n")
    (house / "ir" / "text.py").write_text("")
    (house / "ir" / "graph.py").write_text(statement + "\n")
    found = violations(house, SMALL | {"ir.text": ("ir.graph", "")})
    line = statement.count("\n") + 1
    assert len(found) == 1
    assert found[0].startswith(f"house/ir/graph.py:{line}: ir.graph may not import {name} (")


def test_checker_asks_for_a_row_for_an_unknown_module(house: Path) -> None:
    (house / "ir" / "helpers.py").write_text("")
    assert violations(house, SMALL) == [
        "house/ir/helpers.py: no row for 'ir.helpers'; add one to LAYERS in tests/test_layers.py"
    ]
