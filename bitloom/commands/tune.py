"""`bitloom tune`: measures kernels on a device and records which are fastest."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from bitloom.commands.progress import shown_progress

if TYPE_CHECKING:
    from bitloom.tuning import Comparison
    from schedules.tuning.allocate import Progress
    from schedules.tuning.tuner import Tuner

_INTERRUPTED = 130
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_SHOWN_KERNELS = 16
_SECONDS_BETWEEN_LINES = 5.0


def tune_command(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx|OUT", help="A model, or a folder that compile wrote.")
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", metavar="NAME", help="host, or the folder's target, if left out."),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Measurements of all kernels together, those of earlier runs included."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="10m", help="How long it may take, as 90s, 10m or 2h.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that share a kernel.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", "-c", metavar="FILE.npz", help="Typical inputs; random if left out."),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="INPUT=EXTENTS", help="Shape of a dynamic input; repeatable.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find the fastest kernels of a model by measuring them, and record them.

    `bitloom compile` uses the records. Ctrl-C keeps what was measured; the same
    command goes on. Without --trials and --time, each kernel gets 64 trials at most.
    """
    seconds = None if time is None else duration(time)
    from bitloom.commands.arguments import shapes

    extents = shapes(shape or [])
    _refuse_early(source, target, calibration)
    from bitloom.tuning import compared, device_of, tuner_of, work_of
    from schedules.tuning.tuner import Budget

    with shown_progress(quiet) as progress:
        work = work_of(source, target, calibration, extents, progress)
    device = device_of(work, threads)
    tuner = tuner_of(work, device, Budget(trials=trials, seconds=seconds), seed)
    try:
        verdicts = _tuned(tuner, quiet)
        tuner.close()
        device.close()
        with shown_progress(quiet) as progress:
            comparisons = list(compared(work, tuple(sorted({1, threads})), progress))
        if any(c.ratio > 1 for c in comparisons):
            tuner.withdraw()
    except KeyboardInterrupt:
        print(f"interrupted; all measurements are kept in {records_path(device)}", file=sys.stderr)
        print("hint: the same command goes on", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        tuner.close()
        device.close()
    _print(tuner, verdicts, comparisons, json)


def records_path(device: Any) -> Path:
    from schedules.tuning.records import database_path, records_folder

    return database_path(records_folder(), device.fingerprint)


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `2h`. Errors: BitloomError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or float(found[1]) == 0:
        from compiler.ir.diagnostics import BitloomError

        raise BitloomError(f'--time wants a duration, not "{text}"', "for example --time 90s, 10m or 2h")
    return float(found[1]) * _SECONDS[found[2]]


def _refuse_early(source: Path, target: str | None, calibration: Path | None) -> None:
    """The checks that need no heavy import."""
    from bitloom.library_files import compiled_manifest
    from bitloom.refusals import tunable_target
    from compiler.frontend.wire import read_checked
    from compiler.ir.diagnostics import BitloomError

    known = compiled_manifest(source)["target"] if source.is_dir() else "host"
    tunable_target(target or known)
    if not source.is_dir():
        read_checked(source)
    if calibration is not None and not calibration.exists():
        raise BitloomError(f"calibration {calibration}: no such file")


class _Show(Protocol):
    def __call__(self, tuner: Tuner, last: Progress | None, stage: str, /) -> None: ...


def _tuned(tuner: Tuner, quiet: bool) -> list[tuple[Progress, float]]:
    """Trials and comparison by turns. The kernels, and the cost of the choice over that of the default."""
    with _shown(quiet) as show:
        if tuner.recalled:
            print(f"{tuner.recalled} measurements of earlier runs are known", file=sys.stderr)
        for progress in tuner.run():
            show(tuner, progress, "measure")
        for refinement in tuner.refine():
            done = f"in the model, round {refinement.rounds}, {refinement.gain:.1%} faster"
            show(tuner, None, done)
        verdicts: list[tuple[Progress, float]] = []
        for verdict in tuner.conclude():
            verdicts.append(verdict)
            show(tuner, verdict[0], f"compare with the default, kernel {len(verdicts)}/{len(tuner.kernels)}")
    return verdicts


@contextmanager
def _shown(quiet: bool) -> Generator[_Show]:
    if quiet:
        yield lambda _tuner, _last, _stage: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _plain()


def status(tuner: Tuner, stage: str) -> str:
    """`measure: 120 trials, 3.1 % gained, about 1.2 % to gain, 64 s`."""
    from schedules.tuning.allocate import expected_gain, saved

    kernels = [kernel.progress for kernel in tuner.kernels]
    before, after = saved(kernels)
    gained = 1 - after / before if before else 0.0
    left = tuner.remaining_seconds
    return (
        f"{stage}: {tuner.trials} trials, {gained:.1%} gained, about {expected_gain(kernels):.1%} to gain, "
        f"{tuner.elapsed:.0f} s" + ("" if left is None else f", about {left:.0f} s left")
    )


def _plain() -> _Show:
    last = -_SECONDS_BETWEEN_LINES

    def show(tuner: Tuner, _kernel: Progress | None, stage: str, /) -> None:
        nonlocal last
        if tuner.elapsed - last >= _SECONDS_BETWEEN_LINES:
            last = tuner.elapsed
            print(status(tuner, stage), file=sys.stderr, flush=True)

    return show


@contextmanager
def _live() -> Generator[_Show]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table

    with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:

        def show(tuner: Tuner, last: Progress | None, stage: str, /) -> None:
            shown = Table(box=None, pad_edge=False)
            for column in _COLUMNS:
                shown.add_column(column, justify="left" if column == "kernel" else "right")
            rows = ranked([kernel.progress for kernel in tuner.kernels])
            for progress in rows[:_SHOWN_KERNELS]:
                shown.add_row(*cells(progress), style="bold" if progress is last else "")
            more = len(rows) - _SHOWN_KERNELS
            parts = [shown, f"and {more} more" if more > 0 else "", status(tuner, stage)]
            live.update(Group(*(p for p in parts if p)))

        yield show


_COLUMNS = ("kernel", "runs", "trials", "default", "best", "gain", "to gain")


def ranked(kernels: Iterable[Progress]) -> list[Progress]:
    """Those that take most of the model's time first."""
    return sorted(kernels, key=lambda k: -k.count * k.best if k.trials else 0.0)


def cells(progress: Progress) -> Sequence[str]:
    """A row of the table."""
    return (
        progress.name,
        str(progress.count),
        str(progress.trials),
        _cost(progress.default),
        _cost(progress.best),
        f"{progress.gain:.1%}",
        f"{progress.remaining:.1%}",
    )


def _cost(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < float("inf") else "-"


def _print(
    tuner: Tuner, verdicts: list[tuple[Progress, float]], comparisons: list[Comparison], json: bool
) -> None:
    from bitloom.commands.text import print_json, table

    if json:
        kernels = [
            {"kernel": p.name, "runs": p.count, "trials": p.trials, "ratio": ratio} for p, ratio in verdicts
        ]
        models = [
            {"threads": c.threads, "before_s": c.before, "after_s": c.after, "ratio": c.ratio}
            for c in comparisons
        ]
        print_json(
            {
                "device": tuner.device.fingerprint,
                "records": str(tuner.path),
                "kernels": kernels,
                "model": models,
            }
        )
        return
    ratios = {p.name: ratio for p, ratio in verdicts}
    rows = [[*cells(p)[:5], f"{ratios.get(p.name, 1.0):.3f}"] for p in ranked([p for p, _ in verdicts])]
    print(table([*_COLUMNS[:5], "chosen / default"], rows, "lrrrrr"))
    changed = sum(ratio < 1 for _, ratio in verdicts)
    print(f"\n{tuner.trials} trials; {changed} of {len(tuner.kernels)} kernels are faster than their default")
    for c in comparisons:
        plural = "s" if c.threads > 1 else ""
        print(
            f"the model with {c.threads} thread{plural}: {c.before * 1e3:.3f} ms before, "
            f"{c.after * 1e3:.3f} ms after (ratio within a turn {c.ratio:.3f})"
        )
    if any(c.ratio > 1 for c in comparisons):
        print("that is no gain: the defaults stay")
    print(f"\nrecords: {tuner.path}\nnext: bitloom compile uses them")
