"""Operands of forms that a process measures kernels on: made once, and kept for the process after it."""

from __future__ import annotations

import pickle
from pathlib import Path

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Form
from compiler.lowering.kernel import structural_digest
from targets.measuring.jobs import Prepare
from targets.measuring.operands import Example, example_of

# Forms whose examples stay in memory; those of the others are in files.
_MOST_EXAMPLES = 8


class Examples:
    """Of forms that were prepared. folder: for those that a process which crashes has made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Form, Example] = {}

    def prepare(self, wanted: Prepare) -> str | None:
        """Why there are no operands; None where there are."""
        if wanted.form in self._known:
            return None
        try:
            self._known[wanted.form] = self._example(wanted)
        except (BitloomError, ValueError, IndexError, KeyError) as error:
            return f"no operands: {error}"
        while len(self._known) > _MOST_EXAMPLES:
            del self._known[next(iter(self._known))]
        return None

    def of(self, form: Form) -> Example:
        return self._known[form]

    def _example(self, wanted: Prepare) -> Example:
        path = self._folder / f"{structural_digest(wanted.form)}.example"
        if path.exists():
            return pickle.loads(path.read_bytes())
        example = example_of(wanted.form, wanted.constants)
        partial = path.with_suffix(".partial")
        partial.write_bytes(pickle.dumps(example))
        partial.replace(path)
        return example
