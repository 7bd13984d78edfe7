"""What can be refused before any work begins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from compiler.ir.diagnostics import BitloomError


def check_output(folder: Path) -> None:
    """Errors: BitloomError where `folder` cannot be written, or made. Nothing stays behind."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        what = "is a file" if existing == folder.absolute() else f"cannot be made: {existing} is a file"
        raise BitloomError(f"the output folder {folder} {what}", "choose another folder with --output")
    try:
        # Trying is the only test that tells: permissions say nothing of read-only and virtual file systems.
        os.rmdir(tempfile.mkdtemp(prefix=".bitloom-", dir=existing))
    except OSError as error:
        raise BitloomError(
            f"the output folder {folder} cannot be written: {existing}: {error.strerror}",
            "choose another folder with --output",
        ) from error
