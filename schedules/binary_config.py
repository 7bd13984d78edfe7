"""Decisions of the template for bipolar codes: micro-tiles by their estimated cycles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from compiler.lowering.machine import CpuMachine
from schedules.binary_cost import cycles, fits_registers
from schedules.convolution_config import ConvolutionConfig, Tile, fills_bytes, with_shares
from schedules.convolution_geometry import Geometry


def binary_candidates(g: Geometry, machine: CpuMachine) -> Iterator[ConvolutionConfig]:
    """Micro-tiles by rising estimate."""
    for _, tile in sorted(_tiles(g, machine), key=lambda costed: costed[0])[:24]:
        yield with_shares(tile, g, machine)


def default_binary_config(g: Geometry, machine: CpuMachine) -> ConvolutionConfig:
    """The micro-tile of least estimated cycles."""
    return next(binary_candidates(g, machine))


def check_binary_config(config: ConvolutionConfig, g: Geometry, machine: CpuMachine) -> None:
    """Errors: ValueError with the reason why the template cannot take this configuration."""
    c = config
    if c.lanes != machine.lanes:
        raise ValueError(f"{c.lanes} lanes: {machine.name} has vectors of {machine.lanes}")
    if min(c.vectors, c.columns, c.rows, c.share_rows, c.share_columns, c.share_panels) < 1:
        raise ValueError(f"every tile needs at least one element: {c}")
    if not fills_bytes(c.lanes, c.vectors, g):
        raise ValueError(f"{c.vectors} vectors of {c.lanes} channels do not fill bytes of a b1 result")
    if g.height % c.rows or c.share_rows % c.rows:
        raise ValueError(f"tiles of {c.rows} rows do not divide {g.height} rows and shares of {c.share_rows}")
    if c.columns > g.width:
        raise ValueError(f"a tile of {c.columns} columns is wider than the image of {g.width}")
    if c.overlaps or c.unroll != 1:
        raise ValueError("micro-tiles of b1 codes do not overlap, and are long enough without unrolling")
    whole = c.share_columns == g.width
    if not whole and (c.share_columns % c.columns or c.share_columns > g.width or (g.copies and not g.flat)):
        raise ValueError(f"shares of {c.share_columns} columns: tiles have {c.columns}, the image {g.width}")


def _tiles(g: Geometry, machine: CpuMachine) -> list[tuple[float, Tile]]:
    """Micro-tiles that fit the registers, with their estimated cycles for the layer."""
    found: list[tuple[float, Tile]] = []
    lanes = machine.lanes
    most = max(-(-g.group_outputs // lanes), 2 * (not fills_bytes(lanes, 1, g)))
    rows = [r for r in (1, 2, 3, 4, 7) if g.height % r == 0]
    for vectors, height, width in product(range(1, 9), rows, range(1, min(g.width, 16) + 1)):
        if vectors > most or height * width > 16 or not fills_bytes(lanes, vectors, g):
            continue
        if fits_registers(height * width, vectors, machine):
            tile = Tile(lanes, vectors, height, width)
            found.append((cycles(tile, g, machine), tile))
    return found
