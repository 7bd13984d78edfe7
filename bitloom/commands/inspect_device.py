"""What `bitloom inspect` says of a library for a GPU beside its layers: the estimates of its kernels."""

from __future__ import annotations

from typing import Any


def print_estimate(estimate: dict[str, Any]) -> None:
    """The manifest's `estimate`: a row for each launch, those that take longest first."""
    from bitloom.commands.text import number, table

    kernels = sorted(estimate["kernels"], key=lambda row: -row["seconds"] * row["runs"])
    rows = [
        [
            row["kernel"],
            str(row["runs"]),
            number(row["dots"]),
            number(row["operations"]),
            number(row["loads"]),
            number(row["stores"]),
            str(row["registers"]),
            f"{row['occupancy']:.0%}",
            f"{row['seconds'] * 1e6:.1f} µs",
        ]
        for row in kernels
    ]
    columns = ["kernel", "runs", "dots", "operations", "loads", "stores", "registers", "occupancy", "one run"]
    cores, clock = estimate["cores"], estimate["clock_hz"] / 1e6
    print(f"\nestimate for a {estimate['gpu']} of {cores} cores at {clock:.0f} MHz:")
    print("counted in the kernels' code, not measured; without DRAM and the time of launches")
    print(table(columns, rows, "lrrrrrrrr"))
    print(f"{len(kernels)} kernels, {estimate['seconds'] * 1e3:.3f} ms by the estimate")
