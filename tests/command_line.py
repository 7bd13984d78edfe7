"""The real command line in a process of its own, and what that process imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.onnx_models import make_model, node, save

ROOT = Path(__file__).parents[1]
# Three inputs of `model`.
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
HEAVY = ("onnx", "onnxruntime", "rich", "scipy", "tvm", "xgboost")

_RUN = """
import runpy, sys
try:
    runpy.run_module("bitloom.cli", run_name="__main__", alter_sys=True)
finally:
    with open({listing!r}, "w") as file:
        file.write(" ".join(m for m in sys.modules if "." not in m))
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """heavy: which of HEAVY the process had imported in the end."""

    code: int
    stdout: str
    stderr: str
    heavy: frozenset[str]


def bitloom(
    *arguments: str | Path, cwd: Path, before: Callable[[], None] | None = None, cache: Path | None = None
) -> Outcome:
    """Runs `bitloom ARGUMENTS` in the folder `cwd`. before: called in the new process."""
    listing = cwd / ".imported"
    code = _RUN.format(listing=str(listing))
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=environment(cache),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
    )
    modules = set(listing.read_text().split()) if listing.exists() else set[str]()
    listing.unlink(missing_ok=True)
    return Outcome(done.returncode, done.stdout, done.stderr, frozenset(modules & set(HEAVY)))


def environment(cache: Path | None = None) -> dict[str, str]:
    """With records beside the cache, where one is given, and not those of who runs the tests."""
    chosen = {} if cache is None else {"BITLOOM_CACHE_DIR": str(cache)}
    inherited = {k: v for k, v in os.environ.items() if cache is None or k != "BITLOOM_RECORDS"}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **chosen}


def model(folder: Path, factor: float = 1.0) -> Path:
    """x [1, 4] to z [1, 2]: one dense layer, compiled in seconds."""
    weight = factor * np.arange(8, dtype=np.float32).reshape(4, 2) - 3
    proto = make_model(
        [node("MatMul", "x w", "y", name="fc"), node("Relu", "y", "z")], {"x": [1, 4]}, ["z"], {"w": weight}
    )
    return save(proto, folder)
