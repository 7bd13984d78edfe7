"""`bitloom inspect`: what a model or a library consists of, as a table or as the text of the IR."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.ir.graph import Graph

_ELIDED_ABOVE = 16  # elements of a constant that the short text still shows


class Text(StrEnum):
    """How much of the IR's text is printed; short leaves out large constants."""

    SHORT = "short"
    FULL = "full"


def inspect_command(
    subject: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx|OUT", help="A model, or the folder that compile wrote.")
    ],
    after: Annotated[
        str | None, typer.Option(metavar="PASS", help="Print the IR as it is after this pass.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            "-c",
            metavar="FILE.npz",
            help="Typical inputs: quantizes the model, as compile does.",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="INPUT=EXTENTS", help="Shape of a dynamic input; repeatable.")
    ] = None,
    text: Annotated[Text | None, typer.Option(help="Print the IR's text, not the table.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Show the layers of a model or a library.

    Bits, shapes, scales, multiply-accumulates and bytes of each; of a network for an NPU, what
    runs where, streams, weights and memories. With --after or --text, print the IR as text instead.
    """
    if subject.is_dir():
        _inspect_library(subject, after, text, json)
        return
    from bitloom.commands.arguments import shapes
    from compiler.frontend.wire import read_checked

    extents = shapes(shape or [])
    read_checked(subject)
    from bitloom.stages import graph_after

    graph = graph_after(subject, after, calibration, extents)
    if after is not None or text is not None:
        _print_text(graph, text or Text.SHORT)
    else:
        _print_graph(graph, json)


def _inspect_library(folder: Path, after: str | None, text: Text | None, json: bool) -> None:
    from bitloom.commands.text import print_json
    from bitloom.library_files import holds_npu_network, manifest_path_of, read_manifest
    from compiler.ir.diagnostics import BitloomError

    if after is not None:
        raise BitloomError(
            "a library holds the graph after the last pass only",
            "give the model: bitloom inspect MODEL.onnx --after PASS",
        )
    if text is not None:
        from bitloom.verification import read_graph

        _print_text(read_graph(folder), text)
        return
    if holds_npu_network(folder):
        from bitloom.commands.inspect_npu import print_account
        from bitloom.npu_account import npu_account

        account = npu_account(folder)
        if json:
            print_json(account.as_dict())
        else:
            print_account(account)
        return
    manifest = read_manifest(manifest_path_of(folder))
    if json:
        print_json(manifest)
    else:
        _print_manifest(manifest)


def _print_text(graph: Graph, text: Text) -> None:
    from compiler.ir.printer import graph_text

    print(graph_text(graph, _ELIDED_ABOVE if text is Text.SHORT else None), end="")


def _print_graph(graph: Graph, json: bool) -> None:
    from bitloom.commands.text import number, print_json, size
    from compiler.report import graph_rows, short_type

    rows = graph_rows(graph)
    if json:
        print_json({"name": graph.name, "layers": [row.as_dict() for row in rows]})
        return
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            print(f"{kind} {value.name}: {short_type(value.type)}")
    print(f"\n{_layers([row.as_dict() for row in rows])}\n")
    macs, weights = sum(r.macs for r in rows), sum(r.weight_bytes for r in rows)
    print(f"{len(rows)} layers, {number(macs)} MACs, constants {size(weights)}")


def _print_manifest(manifest: dict[str, Any]) -> None:
    from bitloom.commands.text import number, size

    summary = manifest["summary"]
    print(f"{manifest['name']} for {manifest['target']}, digest {manifest['digest'][:16]}")
    for variant in manifest["variants"]:
        print(f"variant {variant['name']}: needs {', '.join(variant['cpu_features']) or 'any CPU'}")
    for kind in ("input", "output"):
        for port in manifest[f"{kind}s"]:
            codes = (
                f"; codes {port['codes_dtype']}, scale {port['scale']:.6g}, zero point {port['zero_point']}"
                if port["codes_dtype"]
                else ""
            )
            print(f"{kind} {port['name']}: {port['dtype']}{port['shape']}{codes}")
    print(f"\n{_layers(manifest['layers'])}\n")
    print(
        f"{summary['layers']} layers, {summary['kernels']} different kernels, "
        f"{number(summary['macs'])} MACs, constants {size(summary['weight_bytes'])}"
    )
    arena, bound = summary["arena_bytes"], summary["arena_lower_bound"]
    print(
        f"arena {number(arena)} bytes; lower bound {number(bound)}, "
        f"{100 * (arena - bound) / max(bound, 1):.1f} % above it; "
        f"scratch {number(summary['scratch_bytes_per_thread'])} bytes a thread"
    )
    if "estimate" in manifest:
        from bitloom.commands.inspect_device import print_estimate

        print_estimate(manifest["estimate"])
    for note in manifest["notes"]:
        print(f"note: {note['layer']}: {note['text']}")


def _layers(rows: Sequence[dict[str, Any]]) -> str:
    """The table of `LayerRow` dictionaries."""
    from bitloom.commands.text import number, table

    return table(
        ["layer", "operator", "input", "output", "weights", "MACs", "const. bytes", "act. bytes"],
        [
            [
                _names(row["names"]),
                row["operator"],
                row["input"],
                row["output"],
                "" if row["weight_bits"] is None else f"{row['weight_bits']} bit",
                number(row["macs"]) if row["macs"] else "",
                number(row["weight_bytes"]) if row["weight_bytes"] else "",
                number(row["activation_bytes"]),
            ]
            for row in rows
        ],
        "llllrrrr",
    )


def _names(names: Sequence[str]) -> str:
    """The first ONNX node, and how many more were fused into it."""
    if not names:
        return "(added)"
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"
