"""What can be refused before any work begins."""

from __future__ import annotations

import os
from pathlib import Path

from compiler.ir.diagnostics import BitloomError


def check_output(folder: Path) -> None:
    """Errors: BitloomError where `folder` cannot be written, or made. Nothing is created."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        what = "is a file" if existing == folder.absolute() else f"cannot be made: {existing} is a file"
        raise BitloomError(f"the output folder {folder} {what}", "choose another folder with --output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BitloomError(
            f"the output folder {folder} cannot be written: no permission for {existing}",
            "choose another folder with --output",
        )
