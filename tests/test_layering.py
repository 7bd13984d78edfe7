"""The import table of the house, held against the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Who may import which of our packages. Inside `compiler`, layers import only what stands above them here.
MAY_IMPORT = {
    "compiler/numerics": {"compiler/numerics"},
    "compiler/loops": {"compiler/numerics", "compiler/loops"},
    "compiler/ir": {"compiler/numerics", "compiler/loops", "compiler/ir"},
    "compiler/ops": {"compiler/numerics", "compiler/loops", "compiler/ir", "compiler/ops"},
    "compiler/interpreter.py": {"compiler/numerics", "compiler/ir"},
    "compiler/frontend": {"compiler/numerics", "compiler/ir", "compiler/ops", "compiler/frontend"},
    "compiler/passes": {
        "compiler/numerics",
        "compiler/ir",
        "compiler/ops",
        "compiler/interpreter.py",
        "compiler/passes",
    },
    "compiler/quantize": {
        "compiler/numerics",
        "compiler/ir",
        "compiler/ops",
        "compiler/interpreter.py",
        "compiler/frontend",
        "compiler/passes",
        "compiler/quantize",
    },
    "compiler/lowering": {
        "compiler/numerics",
        "compiler/loops",
        "compiler/ir",
        "compiler/ops",
        "compiler/lowering",
    },
    "compiler/report.py": {"compiler/ir", "compiler/lowering"},
    "compiler/driver.py": {
        "compiler/numerics",
        "compiler/loops",
        "compiler/ir",
        "compiler/frontend",
        "compiler/passes",
        "compiler/quantize",
        "compiler/lowering",
    },
    "schedules": {"compiler/numerics", "compiler/loops", "compiler/lowering", "schedules", "sim"},
    "targets": {"compiler", "schedules", "sim", "targets"},
    "sim": {"compiler/numerics", "sim"},
    "bitloom": {"bitloom", "compiler", "schedules", "sim", "targets"},
}
# Third-party packages that only some places may import.
ONLY_IN = {
    "tvm": {"compiler/lowering", "schedules", "targets"},
    "tvm_ffi": {"compiler/lowering", "schedules", "targets"},
    "onnx": {"compiler/frontend"},
    "onnxruntime": {"compiler/quantize"},
    "typer": {"bitloom"},
    "rich": {"bitloom"},
}
OURS = {"compiler", "schedules", "sim", "targets", "bitloom"}


def _sources() -> list[Path]:
    return sorted(p for top in OURS for p in (ROOT / top).rglob("*.py") if p.stat().st_size)


def _place(dotted: str) -> str:
    """`compiler.ir.graph` -> `compiler/ir`; other packages are one place each."""
    parts = dotted.split(".")
    if parts[0] != "compiler" or len(parts) == 1:
        return parts[0]
    return f"compiler/{parts[1]}" if (ROOT / "compiler" / parts[1]).is_dir() else f"compiler/{parts[1]}.py"


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_import_is_allowed(path: Path) -> None:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    here = _place(dotted)
    for name in _imports(path):
        top = name.split(".")[0]
        if top in OURS:
            place = _place(name)
            allowed = MAY_IMPORT.get(here, OURS)
            ok = place in allowed or place.split("/")[0] in allowed
            assert ok, f"{here} must not import {name}"
        elif top in ONLY_IN:
            assert any(here.startswith(p) for p in ONLY_IN[top]), f"{here} must not import {name}"


def test_the_table_names_places_that_exist() -> None:
    for place in MAY_IMPORT:
        assert (ROOT / place).exists(), place


def test_files_stay_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in _sources() if (n := len(p.read_text().splitlines())) > 450}
    assert not long
