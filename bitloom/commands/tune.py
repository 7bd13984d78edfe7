"""`bitloom tune`: measures kernels on a device and records which are fastest."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitloom.commands.progress import shown_progress
from bitloom.commands.tuning_table import cells, columns, ranked, shown_tuning

if TYPE_CHECKING:
    from bitloom.tuning import Comparison, Work
    from schedules.tuning.allocate import Progress
    from schedules.tuning.tuner import Tuner
    from targets.tunable import Place

_INTERRUPTED = 130
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


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
    runner: Annotated[
        str | None,
        typer.Option(metavar="opencl[:NAME]", help="The OpenCL device of this computer, for a GPU's target."),
    ] = None,
    board: Annotated[
        list[str] | None,
        typer.Option(
            metavar="qemu:CPU|ssh:USER@HOST,...", help="Where to measure: equal boards; repeatable."
        ),
    ] = None,
    tracker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The TVM RPC tracker that knows the boards.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The name that the tracker's boards share.")] = None,
    pause: Annotated[
        str | None, typer.Option(metavar="2s", help="A board rests behind each candidate, to cool down.")
    ] = None,
    patience: Annotated[str, typer.Option(metavar="1m", help="How long a lost board is tried again.")] = "1m",
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

    On this computer, on an OpenCL device of it, or on boards: over ssh, behind a tracker, or
    emulated. `bitloom compile` uses the records. Ctrl-C keeps what was measured; the same command
    goes on. Without --trials and --time, each kernel gets 64 trials at most.
    """
    seconds = None if time is None else duration(time)
    from bitloom.commands.arguments import shapes

    extents = shapes(shape or [])
    place = place_of(board or [], tracker, key, threads, pause, patience, runner)
    _refuse_early(source, target, calibration, place)
    from bitloom.tuning import device_of, tuner_of, work_of
    from schedules.tuning.tuner import Budget

    budget = Budget(trials=trials, seconds=seconds)
    with shown_progress(quiet) as progress:
        work = work_of(source, target, calibration, extents, progress)
        if not place.is_here:
            progress("connect to the boards")
        device = device_of(work, place)
    try:
        with closing(device), closing(tuner_of(work, place, device, budget, seed)) as tuner:
            verdicts = _tuned(tuner, quiet)
            spent = tuner.elapsed
        comparisons, not_compared = _comparisons(work, place, quiet)
        if any(c.ratio > 1 for c in comparisons):
            tuner.withdraw()
        by_threads = _by_threads(work, place, tuner, quiet)
    except KeyboardInterrupt:
        print(f"interrupted; all measurements are kept in {records_path(device)}", file=sys.stderr)
        print(f"hint: the same command goes on: bitloom {shlex.join(sys.argv[1:])}", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from None
    if json:
        _print_json(tuner, verdicts, spent, comparisons, not_compared, by_threads)
    else:
        _print(tuner, verdicts, comparisons, not_compared, by_threads)


def place_of(
    boards: Sequence[str],
    tracker: str | None,
    key: str | None,
    threads: int,
    pause: str | None,
    patience: str,
    runner: str | None = None,
) -> Place:
    """Where to measure. boards: each one or several names with commas between. Errors: BitloomError."""
    from compiler.ir.diagnostics import BitloomError
    from targets.tunable import Place

    if (tracker is None) != (key is None):
        raise BitloomError(
            "--tracker and --key belong together: who knows boards, and which of them",
            "see what there is: bitloom board list --tracker HOST:PORT",
        )
    names = [name for text in boards for name in text.split(",")]
    if key is not None and names:
        raise BitloomError(
            "boards are named by --board, or by --tracker and --key", "tune on one kind of board at a time"
        )
    return Place(
        boards=tuple(names) if key is None else (key,),
        tracker=tracker,
        runner=runner,
        threads=threads,
        pause_seconds=0.0 if pause is None else duration(pause, "--pause"),
        patience_seconds=duration(patience, "--patience"),
    )


def _comparisons(work: Work, place: Place, quiet: bool) -> tuple[list[Comparison], str]:
    """Of the whole model, or why there are none."""
    from bitloom.tuning import compared
    from targets.tunable import NotTimedError

    try:
        with shown_progress(quiet) as progress:
            return list(compared(work, place, progress)), ""
    except NotTimedError as error:
        return [], error.message


def _by_threads(work: Work, place: Place, tuner: Tuner, quiet: bool) -> dict[int, float]:
    """Seconds of the model, by the number of threads; the best is recorded."""
    from bitloom.tuning import keep_threads, threads_timed

    with shown_progress(quiet) as progress:
        seconds = threads_timed(work, place, progress)
    if seconds:
        keep_threads(work, tuner, seconds)
    return seconds


def records_path(device: Any) -> Path:
    from schedules.tuning.records import database_path, records_folder

    return database_path(records_folder(), device.fingerprint)


def duration(text: str, option: str = "--time") -> float:
    """Seconds of `90`, `90s`, `10m`, `2h`. Errors: BitloomError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or float(found[1]) == 0:
        from compiler.ir.diagnostics import BitloomError

        raise BitloomError(f'{option} wants a duration, not "{text}"', f"for example {option} 90s, 10m or 2h")
    return float(found[1]) * _SECONDS[found[2]]


def _refuse_early(source: Path, target: str | None, calibration: Path | None, place: Place) -> None:
    """The checks that need no heavy import."""
    from bitloom.library_files import compiled_manifest
    from bitloom.refusals import tunable_target
    from compiler.frontend.wire import read_checked
    from compiler.ir.diagnostics import BitloomError

    known = compiled_manifest(source)["target"] if source.is_dir() else "host"
    chosen = tunable_target(target or known)
    if not source.is_dir():
        read_checked(source)
    if calibration is not None and not calibration.exists():
        raise BitloomError(f"calibration {calibration}: no such file")
    chosen.check_place(place)


def _tuned(tuner: Tuner, quiet: bool) -> list[tuple[Progress, float]]:
    """Trials and comparison by turns. The kernels, and the cost of the choice over that of the default."""
    with shown_tuning(quiet) as show:
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


def _print_json(
    tuner: Tuner,
    verdicts: list[tuple[Progress, float]],
    spent: float,
    comparisons: list[Comparison],
    not_compared: str,
    by_threads: dict[int, float],
) -> None:
    from bitloom.commands.text import print_json

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
            "unit": tuner.device.unit.value,
            "records": str(tuner.path),
            "seconds": round(spent, 3),
            "kernels": kernels,
            "model": models,
            "not_compared": not_compared or None,
            "withdrawn": any(c.ratio > 1 for c in comparisons),
            "threads": by_threads or None,
        }
    )


def _print(
    tuner: Tuner,
    verdicts: list[tuple[Progress, float]],
    comparisons: list[Comparison],
    not_compared: str,
    by_threads: dict[int, float],
) -> None:
    from bitloom.commands.text import table

    ratios = {p.name: ratio for p, ratio in verdicts}
    unit = tuner.device.unit
    rows = [[*cells(p, unit)[:5], f"{ratios.get(p.name, 1.0):.3f}"] for p in ranked([p for p, _ in verdicts])]
    print(table([*columns(unit)[:5], "chosen / default"], rows, "lrrrrr"))
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
    if by_threads:
        from schedules.tuning.threads import fewest

        told = ", ".join(f"{n}: {seconds * 1e3:.3f} ms" for n, seconds in by_threads.items())
        print(f"by the number of threads {told}; where a caller leaves it open, {fewest(by_threads)} at most")
    if not_compared:
        print(f"the whole model was not compared: {not_compared}")
    print(f"\nrecords: {tuner.path}\nnext: bitloom compile uses them")
