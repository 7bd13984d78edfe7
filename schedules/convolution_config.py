"""Decisions of the convolution template, and the analytic model that makes them without measuring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from compiler.lowering.machine import CpuMachine, DotProduct
from compiler.numerics.element import ElementType
from schedules.convolution_arm import fits_registers, has_model, micro_tile_instructions, unrolled_steps
from schedules.convolution_geometry import Geometry
from schedules.convolution_packing import panel_vectors
from schedules.sharing import even_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionConfig:
    """lanes: int32 lanes of a vector of output channels. vectors: of a micro-tile. rows, columns: output
    pixels of a micro-tile; rows divides the grid's height. unroll: step groups per loop iteration.
    share_rows, share_columns, share_panels: what one share computes, in output rows and columns and in
    panels of `vectors` vectors. panels_inner: a share goes over its panels for each micro-tile of
    pixels, rather than over its pixels for each panel of weights. overlaps: a micro-tile is requantized
    between the products of its right neighbour, which leave half of the vector units idle.
    """

    lanes: int
    vectors: int
    rows: int
    columns: int
    unroll: int
    share_rows: int
    share_columns: int
    share_panels: int
    panels_inner: bool
    overlaps: bool


def check_config(config: ConvolutionConfig, g: Geometry, machine: CpuMachine) -> None:
    """Errors: ValueError with the reason why the template cannot take this configuration."""
    c = config
    if c.lanes not in lane_choices(g, machine):
        raise ValueError(f"{c.lanes} lanes: {machine.name} has vectors of {lane_choices(g, machine)}")
    if min(c.vectors, c.columns, c.unroll, c.rows, c.share_rows, c.share_columns, c.share_panels) < 1:
        raise ValueError(f"every tile needs at least one element: {c}")
    if g.height % c.rows or c.share_rows % c.rows:
        raise ValueError(f"tiles of {c.rows} rows do not divide {g.height} rows and shares of {c.share_rows}")
    if c.columns > g.width:
        raise ValueError(f"a tile of {c.columns} columns is wider than the image of {g.width}")
    if not fills_bytes(c.lanes, c.vectors, g):
        raise ValueError(f"{c.vectors} vectors of {c.lanes} channels do not fill bytes of a b1 result")
    if c.overlaps and (not may_overlap(g, machine) or c.panels_inner):
        raise ValueError("only 8-bit dot products of whole kernel rows overlap, with pixels as inner loop")
    whole = c.share_columns == g.width
    if not whole and (c.share_columns % c.columns or c.share_columns > g.width):
        raise ValueError(f"shares of {c.share_columns} columns are no multiple of {c.columns}")
    if not whole and not cuts_columns(g):
        raise ValueError("copied rows are not cut between columns, but for pointwise convolutions")


def fills_bytes(lanes: int, vectors: int, g: Geometry) -> bool:
    """Whether the channels of a micro-tile make whole bytes, where the result is of bits."""
    return g.form.output is not ElementType.B1 or vectors * lanes % 8 == 0


def may_overlap(g: Geometry, machine: CpuMachine) -> bool:
    """Whether micro-tiles can be finished during the products of the next one."""
    form = g.form
    bytes_only = form.weight.bits == form.output.bits == 8 and g.dot.kind is DotProduct.VNNI
    return bytes_only and form.requantizes and g.segment_columns == 1 and machine.vector_bits == 512


def cuts_columns(g: Geometry) -> bool:
    """Whether shares may take part of a row: copied rows are whole ones, but for flat grids."""
    return not g.copies or g.flat


def lane_choices(g: Geometry, machine: CpuMachine) -> tuple[int, ...]:
    """Vector widths that the dot product comes in, widest first."""
    if g.dot.kind in (DotProduct.VNNI, DotProduct.PMADDWD, DotProduct.PMADDUBSW):
        return tuple(n for n in (16, 8, 4) if n <= machine.lanes)
    return (machine.lanes,)


def default_config(g: Geometry, machine: CpuMachine) -> ConvolutionConfig:
    """The micro-tile of least estimated cycles, and shares that suit the caches and a few cores."""
    _, tile = min(_tiles(g, machine), key=lambda costed: costed[0])
    return with_shares(tile, g, machine)


def candidates(g: Geometry, machine: CpuMachine) -> Iterator[ConvolutionConfig]:
    """Micro-tiles by rising estimate, each with both loop orders and a few unroll factors."""
    for _, tile in sorted(_tiles(g, machine), key=lambda costed: costed[0])[:24]:
        base = with_shares(tile, g, machine)
        for unroll, inner in product((1, 2, 4), (False, True)):
            if not base.overlaps:
                yield replace(base, unroll=unroll, panels_inner=inner)
        if base.overlaps:
            yield base


@dataclass(frozen=True, slots=True)
class Tile:
    lanes: int
    vectors: int
    rows: int
    columns: int
    overlaps: bool = False


def _tiles(g: Geometry, machine: CpuMachine) -> list[tuple[float, Tile]]:
    """Micro-tiles whose accumulators fit the registers, with their estimated cycles for the layer."""
    found: list[tuple[float, Tile]] = []
    rows = [r for r in (1, 2, 3, 4, 7) if g.height % r == 0]
    widest = min(g.width, machine.vector_registers)
    for lanes, vectors, height, width in product(
        lane_choices(g, machine), range(1, 9), rows, range(1, widest + 1)
    ):
        if vectors > max(-(-g.group_outputs // lanes), 2 * (not fills_bytes(lanes, 1, g))) or not fills_bytes(
            lanes, vectors, g
        ):
            continue
        if height > 1 and width * height > 16:
            continue
        crowded = height * width > _cached_pixels(g, machine)
        if not crowded and sums_fit(height * width, vectors, g, machine):
            tile = Tile(lanes, vectors, height, width)
            found.append((estimated_cycles(tile, g, machine), tile))
            if _overlap_pays(g, machine) and 10 <= height * width * vectors <= 15:
                tile = replace(tile, overlaps=True)
                found.append((estimated_cycles(tile, g, machine), tile))
    return found


def _overlap_pays(g: Geometry, machine: CpuMachine) -> bool:
    """Measured: long reductions hide little behind what they take, short rows have few neighbours."""
    return may_overlap(g, machine) and g.flat and 4 <= g.steps <= 64


# Bytes of a cache line.
_LINE = 64


def _cached_pixels(g: Geometry, machine: CpuMachine) -> int:
    """Neighbouring pixels whose lines can stay in the first-level cache together.

    Pixels a large power of two apart share few sets, and a micro-tile reads all of its pixels in step.
    """
    distance = g.stride[1] * g.pixel_pitch * (2 if g.dot.activation == "int16" else 1)
    lines = machine.l1_bytes // _LINE
    sets = 1 << ((lines // 8).bit_length() - 1)  # caches have 8 ways, or more to make sets a power of two
    if distance % _LINE:
        return lines
    return lines // math.gcd(sets, distance // _LINE)


def sums_fit(pixels: int, vectors: int, g: Geometry, machine: CpuMachine) -> bool:
    """Accumulators, weights and activations."""
    if has_model(g):
        return fits_registers(pixels, vectors, g, machine)
    if g.sorts_steps:  # Flips beside the weights, ones, and products on their way.
        return pixels * vectors + 2 * vectors + (2 if vectors == 1 else 3) <= machine.vector_registers
    activations = {DotProduct.NONE: 4, DotProduct.PMADDUBSW: 3}.get(g.dot.kind, 1)
    unpacking = 0 if g.form.weight.bits == 8 and g.dot.activation != "int16" else 2
    return pixels * vectors + vectors + activations + unpacking <= machine.vector_registers


def estimated_cycles(tile: Tile, g: Geometry, machine: CpuMachine) -> float:
    """Estimated cycles of the layer: every micro-tile takes per step the longer of its dot products and
    its loads (two small ones per cycle, one vector), at least the latency of an accumulator's chain; loads
    that hide behind dot products still cost a little. About five cycles per vector go to requantizing."""
    # Two units of 256 bits make up one of 512; vectors of 128 bits are no faster than those of 256.
    unit = 0.5 if machine.vector_bits == 512 and tile.lanes < machine.lanes else 1.0
    steps = g.segments * g.steps
    wide, ragged = divmod(g.width, tile.columns)
    total = 0.0
    for vectors, panels in _counts(panel_vectors(g.group_outputs, tile.lanes, tile.vectors)):
        for columns, tiles in ((tile.columns, wide), (ragged, 1)):
            if not columns:
                continue
            pixels = tile.rows * columns
            if has_model(g):
                total += panels * tiles * micro_tile_instructions(pixels, vectors, g, machine)
                continue
            dots = pixels * vectors * unit * _dot_cycles(vectors * tile.lanes, g)
            loads = vectors * unit + pixels * 0.5
            unpack = 0 if g.form.weight.bits == 8 else 2 * vectors * unit
            per_step = max(dots + unpack / 2, loads + unpack, _chain(g)) + 0.05 * loads
            # Four vectors are narrowed together. Each vector of channels has four of constants:
            # accumulators that they push out of the registers are stored and loaded again.
            spilled = max(0, pixels * vectors + 4 * vectors + 4 - machine.vector_registers)
            stores = pixels * vectors / math.gcd(vectors, 4)
            finish = (20 * -(-pixels * vectors // 4) + 2 * stores) * unit + 3 * spilled + 10
            if tile.overlaps and columns == tile.columns:
                # What is left of it, and the last of a row of tiles, which has no neighbour.
                rows = min(_MOST_SHARES, wide) if g.flat else 1
                finish = 4 * pixels * vectors * unit + 5 + finish * rows / max(1, wide)
            total += panels * tiles * (steps * per_step + g.segments * 2 + finish)
    return total * (g.height // tile.rows) * g.images * g.form.groups


def _chain(g: Geometry) -> int:
    """Cycles from one sum of an accumulator to the next: of the dot product, or of the add behind it."""
    return 1 if g.dot.kind is DotProduct.PMADDUBSW else 4


# Of the pairs of weights in the networks that we measure, 1.5 to 2.7 in 100 may saturate.
_SATURATING_PAIRS = 0.02


def _dot_cycles(channels: int, g: Geometry) -> float:
    """Of a vector, for panels of so many channels. VPMADDUBSW, VPMADDWD and an add share three units, two of
    which multiply: 1.1 cycles as measured, and 1.35 with a flip in front."""
    if g.dot.kind is not DotProduct.PMADDUBSW:
        return 1.0
    flipped = 1 - (1 - _SATURATING_PAIRS) ** (2 * channels) if g.sorts_steps else 0.0
    return 1.1 + 0.25 * flipped


def _counts(panels: list[int]) -> list[tuple[int, int]]:
    return [(v, panels.count(v)) for v in dict.fromkeys(panels)]


# A share below this many multiply-accumulates (about 2 µs) is not worth handing to another thread.
_SHARE_MACS = 400_000
_MOST_SHARES = 16


def with_shares(tile: Tile, g: Geometry, machine: CpuMachine) -> ConvolutionConfig:
    """Cuts the larger of weights and activations, so that each share streams the smaller one whole."""
    panels = g.form.groups * -(-g.group_outputs // (tile.lanes * tile.vectors))
    weight_bytes = g.form.out_channels * g.segments * g.steps * g.dot.products * g.form.weight.bits // 8
    input_bytes = g.form.batch * g.form.in_height * g.form.in_width * g.form.in_channels
    wanted = max(1, min(_MOST_SHARES, g.form.macs // _SHARE_MACS))
    by_columns = cuts_columns(g) and g.height == g.images == 1
    units = -(-g.width // tile.columns) if by_columns else g.height // tile.rows
    weights_first = weight_bytes > input_bytes
    if not weights_first:  # A share's input stays in the second-level cache while panels go over it.
        wanted = max(wanted, 4 * input_bytes // machine.l2_bytes)
    block, share_panels = even_blocks(wanted, units, panels, weights_first)
    share_weights = share_panels * tile.vectors * tile.lanes * g.segments * g.steps * g.dot.products
    return ConvolutionConfig(
        lanes=tile.lanes,
        vectors=tile.vectors,
        rows=tile.rows,
        columns=tile.columns,
        unroll=max(1, unrolled_steps(tile.vectors, g, machine) // g.fields) if has_model(g) else 1,
        share_rows=tile.rows if by_columns else block * tile.rows,
        share_columns=min(g.width, block * tile.columns) if by_columns else g.width,
        share_panels=share_panels,
        panels_inner=share_weights <= machine.l1_bytes // 2 and not tile.overlaps,
        overlaps=tile.overlaps,
    )
