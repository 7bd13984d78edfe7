"""`bitloom explore`: one network on many configurations of the NPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

INTERRUPTED = 130


def explore_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The float model.")],
    npu: Annotated[
        str,
        typer.Option(
            metavar="RANGES",
            help="As rows=8..32,cols=8|16,sram=24k..96k/24k,weights=int8|int4; a..b doubles, a..b/c adds c. "
            "Keys: rows, cols, sram (all scratchpads), cores, clock, weight_port, acc_port, lanes, "
            "sram_port, dram_port, weights.",
        ),
    ],
    base: Annotated[
        str, typer.Option(metavar="NAME", help="What else the NPU has: a preset, or a TOML file.")
    ] = "npu-256",
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            "-c",
            metavar="FILE.npz",
            help="Typical inputs, one array for each input of the model.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Takes results.jsonl, table.txt and plot.svg."),
    ] = Path("explored"),
    shape: Annotated[
        list[str] | None, typer.Option(metavar="INPUT=EXTENTS", help="Shape of a dynamic input; repeatable.")
    ] = None,
    weights: Annotated[str, typer.Option(metavar="TYPE", help="int8, int4, int2 or binary.")] = "int8",
    activations: Annotated[str, typer.Option(metavar="TYPE", help="int8 or int16.")] = "int8",
    weight_scales: Annotated[str, typer.Option(metavar="WHOSE", help="channel or tensor.")] = "channel",
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for one on each core.")] = 1,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Use the workers of a Dask scheduler, as tcp://host:8786."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time a network on many configurations of the NPU.

    Prints cycles, energy and a proxy of the area of each, and which no other
    one beats in all three. Interrupted, the same command goes on.
    """
    from bitloom.commands.arguments import shapes
    from bitloom.commands.progress import shown_progress
    from bitloom.commands.text import print_json

    extents = shapes(shape or [])
    _refuse_early(model, npu, base, calibration, output, dask)
    assert calibration is not None
    from bitloom.exploration.reporting import table_text
    from bitloom.exploring import RESULTS, explore

    try:
        with shown_progress(quiet) as progress:
            explored = explore(
                model,
                calibration=calibration,
                npu=npu,
                base=base,
                output=output,
                weights=weights,
                activations=activations,
                weight_scales=weight_scales,
                shapes=extents,
                jobs=jobs or len(os.sched_getaffinity(0)),
                dask=dask,
                progress=progress,
            )
    except KeyboardInterrupt:
        kept = f"finished configurations are kept in {output / RESULTS}"
        print(f"interrupted; {kept}, the same command goes on from there", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if json:
        print_json(explored.as_dict())
        return
    print(table_text(explored.results, explored.front))
    if explored.found:
        print(f"{explored.found} of {len(explored.results)} were found in {output / RESULTS}")
    print(f"written to {output}: results.jsonl, table.txt, plot.svg")


def _refuse_early(
    model: Path, npu: str, base: str, calibration: Path | None, output: Path, dask: str | None
) -> None:
    """The checks that need no heavy import."""
    from bitloom.commands.compile import check_calibration
    from bitloom.exploration.space import base_config, parse_space
    from bitloom.refusals import check_output
    from compiler.frontend.wire import read_checked

    parse_space(npu)
    base_config(base)
    read_checked(model)
    check_calibration(calibration)
    check_output(output)
    if dask is not None:
        from bitloom.exploration.runners import check_dask

        check_dask()
