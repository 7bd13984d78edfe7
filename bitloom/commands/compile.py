"""`bitloom compile`: a model file in, a device library out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitloom.commands.progress import shown_progress

if TYPE_CHECKING:
    from bitloom.compiling import Artifact

_NO_CALIBRATION = """\
give 20 to 200 typical inputs with --calibration samples.npz; such a file is written by
  import numpy
  samples = ...  # float32 [N, 3, 224, 224]: N inputs, prepared as the model expects them
  numpy.savez("samples.npz", input=samples)  # one array for each input of the model, by its name"""


def compile_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The float model.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the library.")
    ] = Path("out"),
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            "-c",
            metavar="FILE.npz",
            help="Typical inputs, one array for each input of the model.",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="NAME", help="See `bitloom targets`.")
    ] = "host",
    npu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="An NPU instead: a preset, or a TOML file as in sim/configs."),
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="More targets of the same kind, as cortex-a76,neoverse-n2: the library carries kernels for "
            "all of them and runs the best that the CPU has.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the library and prefix of its functions.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=EXTENTS", help="Shape of a dynamic input, as data=1,3,224,224; repeatable."
        ),
    ] = None,
    weights: Annotated[str, typer.Option(metavar="TYPE", help="int8, int4, int2 or binary.")] = "int8",
    activations: Annotated[str, typer.Option(metavar="TYPE", help="int8 or int16.")] = "int8",
    layer_weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE=TYPE", help="Weights of one layer, by its ONNX node; repeatable."),
    ] = None,
    weight_scales: Annotated[
        str,
        typer.Option(
            metavar="WHOSE", help="channel or tensor: one scale for each output channel or for each layer."
        ),
    ] = "channel",
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="LIMIT",
            help='"size<=800KiB", "size<=60%" or (npu) "cycles<=80%": narrower weights where it hurts least.',
        ),
    ] = None,
    observer: Annotated[
        str,
        typer.Option(metavar="NAME", help="How ranges are found: minmax, moving-average, percentile or mse."),
    ] = "minmax",
    observer_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER", help="A parameter of the observer, as percentile=99.9; repeatable."
        ),
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Use results of earlier runs.")] = True,
    records: Annotated[
        bool, typer.Option("--records/--no-records", help="Use what `bitloom tune` has recorded.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compile an ONNX model into an integer-only library."""
    from bitloom.commands.arguments import numbers, pairs, shapes

    extents = shapes(shape or [])
    observer_options = numbers("--observer-option", observer_option or [], "percentile=99.9")
    layers = pairs("--layer-weights", layer_weights or [], "conv1=int4")
    target = _with_npu(target, npu)
    companions = variants.split(",") if variants else []
    _refuse_early(model, target, companions, calibration, output)
    assert calibration is not None
    from bitloom.compiling import compile

    with shown_progress(quiet) as progress:
        artifact = compile(
            model,
            calibration=calibration,
            target=target,
            variants=companions,
            output=output,
            name=name,
            shapes=extents,
            weights=weights,
            activations=activations,
            observer=observer,
            observer_options=observer_options,
            layer_weights=layers,
            weight_scales=weight_scales,
            budget=budget,
            cache=cache,
            records=records,
            progress=progress,
        )
    _print(artifact, json)


def _with_npu(target: str, npu: str | None) -> str:
    from compiler.ir.diagnostics import BitloomError

    if npu is None:
        return target
    if target != "host":
        raise BitloomError(f"--target {target} and --npu {npu} name two targets", "leave one of them out")
    return f"npu/{npu}"


def _refuse_early(
    model: Path, target: str, variants: list[str], calibration: Path | None, output: Path
) -> None:
    """The checks that need no heavy import. `compile` makes them too, but later."""
    from bitloom.refusals import check_output
    from compiler.frontend.wire import read_checked
    from targets import target_named

    target_named(target, variants)
    read_checked(model)
    check_calibration(calibration)
    check_output(output)


def check_calibration(calibration: Path | None) -> None:
    """Errors: BitloomError where there is none; it says how such a file is made."""
    from compiler.ir.diagnostics import BitloomError

    if calibration is None:
        raise BitloomError("calibration data is needed, to find the range of every tensor", _NO_CALIBRATION)
    if not calibration.exists():
        raise BitloomError(f"calibration {calibration}: no such file", _NO_CALIBRATION)


def _print(artifact: Artifact, json: bool) -> None:
    from bitloom.commands.text import number, print_json, size, table

    manifest = artifact.manifest
    files = sorted(p for p in artifact.path.iterdir() if artifact.name in p.name)
    if json:
        print_json({"path": str(artifact.path), **manifest})
        return
    summary = manifest["summary"]
    print(table(["file", "size"], [[str(p), size(p.stat().st_size)] for p in files], " r"))
    of_npu = "instructions" in summary
    kernels = f"{summary['kernels']} different kernels" if not of_npu else ""
    code = kernels or f"{number(summary['instructions'])} instructions"
    print(
        f"\n{summary['layers']} layers, {code}, "
        f"{number(summary['macs'])} MACs; constants {size(summary['weight_bytes'])}, "
        f"arena {size(summary['arena_bytes'])}"
    )
    tuning = manifest.get("tuning", {"tuned": 0})
    if tuning["tuned"]:
        devices = "; ".join(tuning["devices"])
        what = "layers" if of_npu else "kernels"
        print(f"{tuning['tuned']} of {tuning[what]} {what} planned by records of {devices}")
        if wide := tuning.get("widened", 0):
            print(f"{wide} of them keep narrow weights as bytes, which is larger (unless --budget 'size<=…')")
    if (estimate := manifest.get("estimate")) is not None:
        gpu = f"a {estimate['gpu']} of {estimate['cores']} cores"
        print(
            f"estimate, not measured: kernels take {estimate['seconds'] * 1e3:.3f} ms on {gpu} (see inspect)"
        )
    for note in manifest["notes"]:
        print(f"note: {note['layer']}: {note['text']}")
    for left in manifest.get("host", []):
        print(f"host: {left['layer']}: {left['operator']}: {left['reason']}")
    then = f"bitloom simulate {artifact.path}" if of_npu else f"bitloom verify {artifact.path}"
    print(f"\nnext: {then}")
