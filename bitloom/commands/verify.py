"""`bitloom verify`: does the library compute what the interpreter says?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bitloom.verification import Verification
    from compiler.ir.graph import Graph
    from compiler.numerics.element import Array

DIFFERENT = 1


def verify_command(
    library: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that compile wrote.")],
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs", "-i", metavar="FILE", help="An .npz or .npy file; random inputs if left out."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many random inputs.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.")] = 0,
    outputs_only: Annotated[
        bool, typer.Option("--outputs-only", help="Compare the outputs, not every layer.")
    ] = False,
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
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare a library with the interpreter, bit for bit.

    Every layer is compared, on every sample. Ends with exit code 1, and names
    the first layer that differs, where they are not equal.
    """
    from bitloom.library_files import compiled_manifest, variant_records

    # Refuses a folder without anything compiled before the rest is imported.
    manifest = compiled_manifest(library)
    variant_records(manifest, variant)
    from bitloom.verification import read_graph, verdict_lines, verify

    graph = read_graph(library)
    given = _read(inputs, graph) if inputs is not None else None
    result = verify(
        library,
        given,
        samples=samples,
        layers=not outputs_only,
        threads=threads,
        seed=seed,
        runner=runner,
        variant=variant,
    )
    if json:
        _print_json(manifest, result, seed if inputs is None else None)
    else:
        names = [v.name for v in graph.outputs]
        print("\n".join(verdict_lines(result, names, list(variant_records(manifest, None)))))
    if not result.is_exact:
        raise typer.Exit(DIFFERENT)


def _read(path: Path, graph: Graph) -> list[dict[str, Array]]:
    from bitloom.commands.samples import Expected, read_samples

    expected = [Expected(v.name, v.type.shape, (v.type.element.dtype,)) for v in graph.inputs]
    return read_samples(path, expected)


def _print_json(manifest: dict[str, Any], result: Verification, seed: int | None) -> None:
    import dataclasses

    from bitloom.commands.text import print_json

    print_json(
        {
            **{key: manifest[key] for key in ("name", "target", "digest", "versions")},
            "variant": result.variant,
            "exact": result.is_exact,
            "samples": result.samples,
            "layers": result.layers,
            "seed": seed,
            "difference": None if result.difference is None else dataclasses.asdict(result.difference),
        }
    )
