"""`bitloom records`: what tuning has measured, and how it is kept, joined and passed on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schedules.tuning.records import Record

records_app = typer.Typer(no_args_is_help=True, help="Show, merge, prune and export records of tuning.")

_Files = Annotated[
    list[Path] | None, typer.Argument(metavar="[FILES]", help="Records; those of this user if left out.")
]


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _files(given: Sequence[Path] | None) -> list[Path]:
    """Errors: BitloomError where a file is not there, or none at all."""
    from compiler.ir.diagnostics import BitloomError
    from schedules.tuning.records import databases, records_folder

    for path in given or ():
        if not path.is_file():
            raise BitloomError(f"records {path}: no such file")
    found = list(given or databases(records_folder()))
    if not found:
        raise BitloomError(
            f"there are no records in {records_folder()}", "`bitloom tune model.onnx` makes them"
        )
    return found


@records_app.command("show")
def show_command(files: _Files = None) -> None:
    """Say what records hold, device by device."""
    from bitloom.commands.text import table
    from schedules.tuning.records import read

    for path in _files(files):
        records = read(path, _warn)
        by_device: dict[str, list[Record]] = {}
        for record in records:
            by_device.setdefault(record.fingerprint, []).append(record)
        print(f"{path}: {len(records)} records")
        for device, group in by_device.items():
            print(f"  {device}")
            verdicts = [r for r in group if r.verdict is not None]
            outcomes: dict[str, int] = {}
            for record in group:
                outcomes[record.outcome.value] = outcomes.get(record.outcome.value, 0) + 1
            rows = [["kernels", str(len({r.subject for r in group}))], ["verdicts", str(len(verdicts))]]
            rows += [[outcome, str(count)] for outcome, count in sorted(outcomes.items())]
            rows.append(["dates", f"{min(r.date for r in group)[:10]} to {max(r.date for r in group)[:10]}"])
            print(table(["", ""], rows, "lr"))


@records_app.command("merge")
def merge_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="Records to join.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="In place of this user's own records."),
    ] = None,
) -> None:
    """Join records of several files, each once; into this user's own, device by device, or into one file."""
    from schedules.tuning.records import database_path, merged, read, records_folder, rewrite

    groups = [read(path, _warn) for path in _files(files)]
    by_path: dict[Path, list[Record]] = {} if output is None else {output: []}
    for record in merged(groups):
        path = output or database_path(records_folder(), record.fingerprint)
        by_path.setdefault(path, []).append(record)
    for path, new in by_path.items():
        rewrite(path, lambda old, new=new: merged([old, new]), _warn)
        print(f"{path}: {len(read(path, _warn))} records")


@records_app.command("prune")
def prune_command(
    files: _Files = None,
    best: Annotated[int, typer.Option(min=1, help="Measurements of each kernel that stay.")] = 20,
) -> None:
    """Drop records of templates that have changed, failures, damaged lines and all but the best
    measurements."""
    from schedules.tuning.records import pruned, read, rewrite
    from schedules.tuning.tuned import is_current

    for path in _files(files):
        before = len(read(path, lambda _text: None))
        rewrite(path, lambda old: pruned(old, is_current, best), _warn)
        print(f"{path}: {before} records before, {len(read(path, _warn))} after")


@records_app.command("export")
def export_command(files: _Files = None) -> None:
    """Print the verdict of each kernel on each device, or its best measurement, as JSON lines.

    What is printed is a file of records: it can be merged elsewhere.
    """
    from schedules.tuning.records import merged, pruned, read
    from schedules.tuning.tuned import is_current

    for record in merged(pruned(read(path, _warn), is_current, 1) for path in _files(files)):
        print(record.line())
