"""Instructions of products of matrices: tiles of the result, each from pieces of the reduction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

from schedules.npu_blocks import share
from schedules.npu_emit import Address, Emitter, Run, load
from schedules.npu_matrix import Matrix, MatrixProduct, Part, image_part, weight_parts
from schedules.npu_matrix_tiling import MatrixTiling
from schedules.npu_transfer import Transfer, move_in, move_out
from sim.config import PARAMETER_BYTES
from sim.isa import Engine, Gemm, Memory, Operands, Output, Requantize, Window


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows [row, row + rows) by columns [column, column + columns) of the matrices at `index`."""

    index: tuple[int, ...]
    row: int
    rows: int
    column: int
    columns: int


def emit_matrices(e: Emitter, p: MatrixProduct, t: MatrixTiling, most: int = 1 << 30) -> None:
    """Tiles of the result on all cores; of each core, so many at most."""
    cores = e.config.cores
    every = list(_tiles(p, t))
    shares = [_Core(e, core, p, t) for core in range(cores)]
    queues = [share(every, core, cores) for core in range(cores)]
    for turn in range(min(most, max(map(len, queues)))):
        for core, queue in zip(shares, queues, strict=True):
            if turn < len(queue):
                core.tile(queue[turn])


def count_tiles(p: MatrixProduct, t: MatrixTiling, cores: int) -> int:
    """Of the core with most of them."""
    return ceil(prod(p.batch) * ceil(p.m / t.m) * ceil(p.n / t.n) / cores)


def _tiles(p: MatrixProduct, t: MatrixTiling) -> Iterator[_Tile]:
    rows = [(m, min(t.m, p.m - m)) for m in range(0, p.m, t.m)]
    columns = [(n, min(t.n, p.n - n)) for n in range(0, p.n, t.n)]
    for index in product(*map(range, p.batch)):
        if t.rows_first:
            yield from (_Tile(index, *m, *n) for n in columns for m in rows)
        else:
            yield from (_Tile(index, *m, *n) for m in rows for n in columns)


class _Core:
    """One core's share, with what its memories hold."""

    def __init__(self, e: Emitter, core: int, p: MatrixProduct, t: MatrixTiling) -> None:
        self.e, self.core, self.p, self.t = e, core, p, t
        self.busy = {Engine.LOAD: 0.0, Engine.FETCH: 0.0}  # cycles
        pads = e.config.scratchpad
        s = t.slots
        self.images = e.slots(core, Memory.ACTIVATION, 0, s.image, s.images)
        self.results = e.slots(core, Memory.ACTIVATION, s.images * s.image, s.result, s.results)
        self.weights = e.slots(core, Memory.WEIGHT, 0, s.weight, s.weights)
        words = pads.accumulator_words // 2 * 2 // s.accumulators
        self.accumulators = e.slots(core, Memory.ACCUMULATOR, 0, words, s.accumulators)
        bank = pads.parameter_bytes // pads.parameter_banks
        self.parameters = e.slots(core, Memory.PARAMETER, 0, bank, pads.parameter_banks)

    def tile(self, tile: _Tile) -> None:
        accumulators, _ = self.accumulators.take(tile)
        for k in range(0, self.p.k, self.t.k):
            self._product(tile, k, min(self.t.k, self.p.k - k), accumulators)
        self._finish(tile, accumulators)

    def _product(self, tile: _Tile, k: int, depth: int, accumulators: int) -> None:
        p, e, core = self.p, self.e, self.core
        lanes = e.config.mac.output_lanes(p.left.element.bits, 8)
        at, parts = _at(p.left, tile.index, tile.row, k), image_part(p.left, tile.rows, depth)
        image, fresh = self.images.take((at, tile.rows, depth))
        if fresh:
            self._bring(at, Memory.ACTIVATION, image, parts, p.left.size)
        at = _at(p.right, tile.index, k, tile.column)
        parts = weight_parts(p.right, depth, tile.columns, lanes)
        weights, fresh = self.weights.take((at, depth, tile.columns))
        if fresh:
            self._bring(at, Memory.WEIGHT, weights, parts, p.right.size)
        e.set(core, _window(tile.rows))
        operands = Operands(
            act_bits=p.left.element.bits,
            wgt_bits=8,
            act_zero=p.left.zero,
            wgt_zero=p.right.zero,
            channels=depth,
            row_stride=0,
            pixel_stride=depth * p.left.size,
        )
        e.set(core, operands)
        gemm = Gemm(
            accumulate=k > 0,
            act=image,
            wgt=weights,
            acc=accumulators,
            rows=1,
            columns=tile.rows,
            outputs=tile.columns,
        )
        e.add(core, gemm)

    def _bring(self, source: Address, memory: Memory, local: int, parts: tuple[Part, ...], size: int) -> None:
        """By the engine that has had less to do. LOAD alone spreads elements: FETCH may have copies of
        constants to make, in whole rows."""
        for p in parts:
            moved = Transfer.of(p.runs, size)
            engine = Engine.LOAD if moved.spreads else min(self.busy, key=self.busy.__getitem__)
            self.busy[engine] += moved.cycles(self.e.config, source.dram)
            move_in(self.e, self.core, engine, source + p.outside, memory, local + p.inside, p.runs, size)

    def _finish(self, tile: _Tile, accumulators: int) -> None:
        """From accumulators to codes in the result."""
        p, e, core, y = self.p, self.e, self.core, self.p.result
        param, fresh = self.parameters.take(0)
        if fresh:
            load(e, core, p.parameters, Memory.PARAMETER, param, [], PARAMETER_BYTES)
        local, _ = self.results.take(tile)
        row = tile.columns * y.size
        output = Output(
            lookup=False,
            out_bits=y.element.bits,
            zero_point=y.zero,
            low=p.low,
            high=p.high,
            stride=row,
            table=0,
        )
        e.set(core, output)
        requantize = Requantize(
            per_tensor=True,
            acc=accumulators,
            dst=local,
            param=param,
            pixels=tile.rows,
            channels=tile.columns,
        )
        e.add(core, requantize)
        runs = [Run(tile.rows, y.row, row), Run(tile.columns, y.column, y.size)]
        move_out(e, core, local, _at(y, tile.index, tile.row, tile.column), runs, y.size)


def _at(x: Matrix, index: tuple[int, ...], row: int, column: int) -> Address:
    begin = sum(i * s for i, s in zip(index, x.batch, strict=True))
    return x.address + (begin + row * x.row + column * x.column)


def _window(pixels: int) -> Window:
    return Window(
        engine=Engine.MAC,
        kernel_y=1,
        kernel_x=1,
        stride_y=1,
        stride_x=1,
        dilation_y=1,
        dilation_x=1,
        pad_top=0,
        pad_left=0,
        height=1,
        width=pixels,
    )
