"""`bitloom run`: inputs from a file through a compiled library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bitloom.commands.samples import Expected
    from bitloom.layer_times import LayerTime
    from bitloom.loading import Model
    from compiler.numerics.element import Array

_TIMED_SECONDS = 1.0
_FEWEST_RUNS, _MOST_RUNS = 20, 5000
_SHOWN = 12


def run_command(
    library: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that compile wrote.")],
    input_: Annotated[
        Path,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="An .npz file with an array for each input, or an .npy file.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.npz", help="Write the outputs to this .npz file."),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 for one on each core.")] = 0,
    runner: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="local, opencl[:DEVICE], qemu:CPU (an emulated Arm core) or ssh:USER@HOST[:PORT].",
        ),
    ] = "local",
    variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of the library's variants; the CPU's best if left out."),
    ] = None,
    time: Annotated[bool, typer.Option("--time", help="Measure the latency inside the library.")] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Measure each layer, in its place in a run.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run a library on arrays from a file.

    Float inputs give float outputs; inputs in codes (int8) give codes. A longer leading axis is a number of
    samples.
    """
    from bitloom.commands.samples import read_samples
    from bitloom.loading import load

    with load(library, threads, runner, variant) as model:
        samples = read_samples(input_, _expected(model))
        results = [model.run(None, sample) for sample in samples]
        latency = _latency(model, samples[0]) if time else None
        times = _layers(model, samples[0]) if layers else None
        names = [port.name for port in model.outputs]
        outputs = {name: [result[i] for result in results] for i, name in enumerate(names)}
        if output is not None:
            _write(output, outputs)
        if json:
            _print_json(model, outputs, latency, times, threads)
        else:
            _print(outputs, latency, output)
            _print_layers(times)


def _expected(model: Model) -> list[Expected]:
    from bitloom.commands.samples import Expected

    dtypes = [(p.dtype, *([p.codes_dtype] if p.codes_dtype is not None else [])) for p in model.inputs]
    return [Expected(p.name, p.shape, d) for p, d in zip(model.inputs, dtypes, strict=True)]


def _latency(model: Model, sample: dict[str, Array]) -> dict[str, float]:
    """Milliseconds in the library's function, for about a second: median, 10th and 90th percentile."""
    import numpy as np

    first = float(np.median(model.time(sample, repeat=3)))
    repeat = int(min(max(_TIMED_SECONDS / max(first, 1e-9), _FEWEST_RUNS), _MOST_RUNS))
    milliseconds = model.time(sample, repeat=repeat) * 1e3
    low, middle, high = (float(x) for x in np.percentile(milliseconds, [10, 50, 90]))
    return {"median_ms": middle, "p10_ms": low, "p90_ms": high, "runs": repeat}


def _layers(model: Model, sample: dict[str, Array]) -> list[LayerTime]:
    from bitloom.layer_times import layer_times

    return layer_times(model, sample)


def _write(path: Path, outputs: dict[str, list[Array]]) -> None:
    """All samples along the leading axis, written whole or not at all."""
    import numpy as np

    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            arrays: dict[str, Any] = {
                n: np.concatenate([np.atleast_1d(a) for a in o]) for n, o in outputs.items()
            }
            np.savez(stream, **arrays)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _print(outputs: dict[str, list[Array]], latency: dict[str, float] | None, path: Path | None) -> None:
    for name, arrays in outputs.items():
        for index, array in enumerate(arrays[:_SHOWN]):
            print(f"{name}, sample {index}: {_values(array)}")
        if len(arrays) > _SHOWN:
            print(f"{name}: {len(arrays) - _SHOWN} more samples")
    if path is not None:
        print(f"written to {path}")
    if latency is not None:
        print(
            f"latency: median {latency['median_ms']:.3f} ms, p10 {latency['p10_ms']:.3f}, "
            f"p90 {latency['p90_ms']:.3f}, {latency['runs']} runs of sample 0"
        )


def _print_layers(layers: list[LayerTime] | None) -> None:
    """In order of execution, so that the table reads as the model does."""
    from bitloom.commands.text import table

    if layers is None:
        return
    rows = [
        [r.layer, r.operator, r.output, f"{r.microseconds:.1f}", f"{r.share:.1%}", r.rate] for r in layers
    ]
    total = sum(r.microseconds for r in layers)
    rows.append(["all", "", "", f"{total:.1f}", "100.0%", ""])
    print(table(["layer", "operator", "output", "µs", "share", "rate"], rows, "lllrrr"))


def _values(array: Array) -> str:
    """Small arrays in full; the five largest numbers of a longer vector; the range of anything else."""
    shape = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    flat = array.reshape(-1)
    if flat.size <= _SHOWN:
        return f"{shape} {' '.join(f'{x:g}' for x in flat)}"
    if flat.size == max(array.shape):
        best = flat.argsort(kind="stable")[::-1][:5]
        return f"{shape} largest: {', '.join(f'{flat[i]:g} at {i}' for i in best)}"
    return f"{shape} from {flat.min():g} to {flat.max():g}, mean {flat.mean():g}"


def _print_json(
    model: Model,
    outputs: dict[str, list[Array]],
    latency: dict[str, float] | None,
    layers: list[LayerTime] | None,
    threads: int,
) -> None:
    from dataclasses import asdict

    from bitloom.commands.text import print_json

    record: dict[str, Any] = {
        key: model.manifest.get(key) for key in ("name", "target", "digest", "versions")
    }
    record["variant"] = model.variant
    record["threads"] = threads
    record["outputs"] = {name: [a.tolist() for a in arrays] for name, arrays in outputs.items()}
    if latency is not None:
        record["latency"] = latency
    if layers is not None:
        record["layers"] = [asdict(layer) for layer in layers]
    print_json(record)
