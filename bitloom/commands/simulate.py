"""`bitloom simulate`: a network for the NPU on the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

_NAME = 40

if TYPE_CHECKING:
    from bitloom.simulation import Simulation
    from compiler.ir.graph import Graph
    from compiler.numerics.element import Array


def simulate_command(
    network: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that compile wrote for an NPU.")],
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--input", "-i", metavar="FILE", help="An .npz or .npy file of one sample; random if left out."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.npz", help="Takes the outputs.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE.json", help="Takes a trace for https://ui.perfetto.dev."),
    ] = None,
    timing_only: Annotated[
        bool, typer.Option("--timing-only", help="Neither check streams nor compute results.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random input.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run a network for the NPU on the simulator.

    Prints for each layer its cycles, how well it uses the multipliers, what
    limits it, and what it moves; and the totals.
    """
    from compiler.ir.diagnostics import BitloomError

    if timing_only and (inputs is not None or output is not None):
        option = "--input" if inputs is not None else "--output"
        raise BitloomError(f"{option} needs results, --timing-only computes none", "leave one of them out")
    from bitloom.simulation import simulate_model
    from sim.stream import StreamError
    from targets.streams.model import read_model

    model = read_model(network)
    sample = None if timing_only else _sample(model.graph, inputs, seed)
    try:
        result = simulate_model(model, sample, trace_file=trace)
    except StreamError as error:
        raise BitloomError(f"{network}: {error}", "compile the model again") from error
    if output is not None and result.outputs is not None:
        import numpy as np

        np.savez(output, **result.outputs)  # pyright: ignore[reportArgumentType]
    if json:
        _print_json(result)
    else:
        _print(result)


def _sample(graph: Graph, inputs: Path | None, seed: int) -> dict[str, Array]:
    from bitloom.commands.samples import Expected, read_samples
    from compiler.ir.diagnostics import BitloomError

    if inputs is None:
        from bitloom.verification import random_inputs

        return next(random_inputs(graph, 1, seed))
    expected = [Expected(v.name, v.type.shape, (v.type.element.dtype,)) for v in graph.inputs]
    samples = read_samples(inputs, expected)
    if len(samples) != 1:
        raise BitloomError(
            f"{inputs} holds {len(samples)} samples", "simulate takes one; verify takes several"
        )
    return samples[0]


def _print(result: Simulation) -> None:
    from bitloom.commands.text import number, size, table

    headers = ["layer", "operator", "cycles", "MAC use", "limit", "SRAM", "DRAM", "energy"]
    rows = [
        [
            _short(r.layer),
            r.operator,
            number(r.cycles),
            f"{r.mac_utilisation:.1%}",
            r.limit,
            size(r.sram_bytes),
            size(r.dram_bytes),
            _energy(r.energy_pj),
        ]
        for r in result.layers
        if r.reason is None
    ]
    print(table(headers, rows, "llrrlrrr"))
    for r in result.layers:
        if r.reason is not None:
            print(f"host: {_short(r.layer)}: {r.operator}: {r.reason}")
    print(
        f"\n{result.name} on {result.npu}: {number(result.cycles)} cycles, {result.milliseconds:.3f} ms; "
        f"{number(result.macs)} MACs, {result.mac_utilisation:.1%} of the array; "
        f"SRAM {size(result.sram_bytes)}, DRAM {size(result.dram_bytes)}, {_energy(result.energy_pj)}; "
        f"{number(result.instructions)} instructions"
    )
    for name, array in (result.outputs or {}).items():
        print(f'output "{name}": {array.dtype}{list(array.shape)} from {array.min():g} to {array.max():g}')


def _short(name: str) -> str:
    """Of fused layers, the beginning; the JSON has it all."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _energy(picojoules: float) -> str:
    return f"{picojoules / 1e6:.2f} uJ"


def _print_json(result: Simulation) -> None:
    import dataclasses

    from bitloom.commands.text import print_json

    record = dataclasses.asdict(dataclasses.replace(result, outputs=None))
    outputs = None
    if result.outputs is not None:
        outputs = {n: {"dtype": str(a.dtype), "shape": list(a.shape)} for n, a in result.outputs.items()}
    print_json({**record, "outputs": outputs})
