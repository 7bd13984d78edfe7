"""What can be refused before any work begins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.ir.diagnostics import BitloomError

if TYPE_CHECKING:
    from targets.tunable import TunableTarget


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


def tunable_target(name: str) -> TunableTarget:
    """The target of a name, or of several with commas between, of which the first one is tuned.

    Errors: BitloomError.
    """
    from targets import target_named
    from targets.tunable import Tunable

    first, *others = name.split(",")
    chosen = target_named(first, others)
    if not isinstance(chosen, Tunable):
        raise BitloomError(f'target "{name}" has no kernels to tune', "see docs/tuning.md")
    return chosen
