"""Tile registers: their instructions, their numbers and their sizes."""

from __future__ import annotations

from schedules.amx import AmxPlan
from schedules.amx_config import ROW_BYTES, TILE_ROWS, TILES
from schedules.intrinsics import Buffer, Expr, store, tir, tirx


def emit_tile(name: str, *arguments: Expr) -> None:
    """An instruction of the tile unit; LLVM keeps them in order."""
    tir.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def tile_number(number: int) -> Expr:
    return tirx.const(number, "int8")


def load_tile(register: int, source: Buffer, offset: Expr, stride: Expr) -> None:
    emit_tile(
        "tileloadd64", tile_number(register), tirx.address_of(source[offset]), tirx.Cast("int64", stride)
    )


def prefetch_line(source: Buffer, offset: Expr) -> None:
    """Into the second-level cache; an address without memory does no harm."""
    read, second_level, data = (tirx.const(n, "int32") for n in (0, 2, 1))
    address = tirx.address_of(source[offset])
    tir.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, read, second_level, data))


class Registers:
    """Numbers of the tile registers: sums, then inputs, then weights. The side that passes by uses two in
    turn, so that the next tile is loaded while one multiplies."""

    def __init__(self, pixel_tiles: int, vectors: int) -> None:
        self.vectors = vectors
        self.first_input = pixel_tiles * vectors
        self.keeps_inputs = pixel_tiles <= vectors
        self.inputs = pixel_tiles if self.keeps_inputs else min(2, pixel_tiles)
        self.weights = min(2, vectors) if self.keeps_inputs else vectors

    def sum(self, pixel_tile: int, vector: int) -> int:
        return pixel_tile * self.vectors + vector

    def input(self, pixel_tile: int) -> int:
        return self.first_input + pixel_tile % self.inputs

    def weight(self, vector: int) -> int:
        return self.first_input + self.inputs + vector % self.weights


def configure(plan: AmxPlan) -> None:
    """Sizes of the tiles, as LDTILECFG takes them: palette 1, bytes of a row from 16 on, rows from 48 on.

    A panel of fewer vectors keeps to the registers of a whole one, so that one configuration serves both.
    """
    c = plan.config
    registers = Registers(c.tiles, c.vectors)
    shapes = {registers.sum(t, v): (c.pixels, ROW_BYTES) for t in range(c.tiles) for v in range(c.vectors)}
    shapes |= {registers.input(t): (c.pixels, c.depth) for t in range(c.tiles)}
    shapes |= {registers.weight(v): (c.depth // 4, ROW_BYTES) for v in range(c.vectors)}
    table = [1] + [0] * (ROW_BYTES - 1)
    for number, (rows, row_bytes) in shapes.items():
        assert number < TILES and rows <= TILE_ROWS
        table[16 + 2 * number], table[48 + number] = row_bytes, rows
    settings = tir.alloc_buffer((ROW_BYTES,), "uint8", scope="local")
    for i, value in enumerate(table):
        store(settings, i, tirx.const(value, "uint8"), 1)
    emit_tile("ldtilecfg", tirx.address_of(settings[0]))
