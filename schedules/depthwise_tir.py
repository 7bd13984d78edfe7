"""The scheduled function of a depthwise convolution: see `depthwise` for the method.

Vectors are written out, so that what each machine must execute stands here by name; LLVM allocates
registers and orders instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.target.codegen import llvm_lookup_intrinsic_id
from tvm.tirx.script.builder import ir as T

from compiler.lowering.machine import DotProduct
from compiler.numerics.element import ElementType
from schedules.depthwise import VECTORS, ChannelGroup, DepthwiseLayout

Vector = Any  # TVM's expressions carry no types
Index = Any

_PACK_WORDS = {4: "llvm.x86.sse2.packssdw.128", 8: "llvm.x86.avx2.packssdw", 16: "llvm.x86.avx512.packssdw.512"}
_PACK_BYTES = {4: "llvm.x86.sse2.packuswb.128", 8: "llvm.x86.avx2.packuswb", 16: "llvm.x86.avx512.packuswb.512"}
_MULTIPLY_PAIRS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


def depthwise_function(layout: DepthwiseLayout, symbol: str) -> Any:
    """PrimFunc over the operands of `DepthwisePlan.operands`, all flat."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(symbol)
            T.func_attr({"tirx.noalias": True})
            _Kernel(layout).emit()
    return builder.get()


def _call(name: str, dtype: str, *args: Vector) -> Vector:
    return tirx.call_llvm_pure_intrin(dtype, llvm_lookup_intrinsic_id(name), *args)


def _shuffle(vectors: Sequence[Vector], indices: Sequence[int]) -> Vector:
    return tirx.Shuffle(list(vectors), [tirx.const(int(i), "int32") for i in indices])


def _load(buffer: Any, index: Index, dtype: str) -> Vector:
    return buffer.vload([index], dtype)


def _store(buffer: Any, index: Index, value: Vector, count: int) -> None:
    T.buffer_store(buffer, value, [tirx.Ramp(index, 1, count)])


def _interleave(a: Vector, b: Vector, size: int, per_block: int, unit: int = 1) -> list[Vector]:
    """The low and the high halves of each 128 bits of a and b, units alternating (punpckl and punpckh, zip1
    and zip2). size: elements of a; per_block: elements in 128 bits; unit: elements that stay together."""
    halves: list[Vector] = []
    for high in (0, per_block // 2):
        indices: list[int] = []
        for start in range(0, size, per_block):
            for i in range(start + high, start + high + per_block // 2, unit):
                indices += [*range(i, i + unit), *range(size + i, size + i + unit)]
        halves.append(T.bind(_shuffle([a, b], indices)))
    return halves


class _Kernel:
    """Emits the statements into the open function."""

    def __init__(self, layout: DepthwiseLayout) -> None:
        self.layout, self.form = layout, layout.form
        f = layout.form
        self.in_pitch = f.input_pitch or f.in_channels
        self.out_pitch = f.output_pitch or f.out_channels
        self.input = self._operand("input", f.batch * f.in_height * f.in_width * self.in_pitch, layout.input_dtype)
        lanes = sum(g.width for g in layout.groups)
        steps = sum(len(s) for s in layout.steps)
        self.weight = self._operand("weight", lanes * steps * layout.depth, layout.weight_dtype)
        self.bias = self._operand("bias", lanes, "int32")
        self.rescale = self._operand("rescale", 3 * lanes, "int64") if f.requantizes else None
        self.parameters = self._operand("parameters", 4, "int32")
        size = f.batch * f.out_height * f.out_width * self.out_pitch
        self.output = self._operand("output", size, layout.output_dtype)
        size = layout.scratch_bytes // np.dtype(layout.band_dtype).itemsize
        self.band = self._operand("scratch", size, layout.band_dtype)

    @staticmethod
    def _operand(name: str, size: int, dtype: str) -> Any:
        return T.arg(name, T.buffer((size,), dtype, layout=None))

    def emit(self) -> None:
        layout = self.layout
        with T.parallel(0, self.form.batch * layout.tiles_per_image) as tile:
            image = T.bind(tirx.floordiv(tile, layout.tiles_per_image))
            first = T.bind(tirx.floormod(tile, layout.tiles_per_image) * layout.config.bands)
            constants = 0  # lanes of the groups before
            for group, count in _runs(layout.groups):
                self._pad_columns(group)
                with T.serial(0, count) as g:
                    channel, lane = T.bind(group.start + g * group.width), T.bind(constants + g * group.width)
                    with T.serial(0, layout.config.bands) as b:
                        band = T.bind(first + b)
                        with _when(band < layout.bands, layout.bands % layout.config.bands != 0):
                            self._gather(group, image, band, channel)
                            self._contract(group, image, band, channel, lane)
                constants += count * group.width

    def _band_index(self, group: ChannelGroup, column: Index, row_group: int) -> Index:
        return (column * self.layout.row_groups + row_group) * group.width * self.layout.depth

    def _pad_columns(self, group: ChannelGroup) -> None:
        """Columns of the band outside the image hold the zero point for as long as groups keep their width."""
        layout = self.layout
        size = group.width * layout.depth * layout.row_groups
        lanes = group.lanes * layout.depth
        left, right = self._inner_columns()
        for begin, end in ((0, left), (right, layout.band_columns)):
            if begin < end:
                with T.serial(begin * size // lanes, end * size // lanes) as i:
                    _store(self.band, i * lanes, self._zero_point(layout.band_dtype, lanes), lanes)

    def _inner_columns(self) -> tuple[int, int]:
        """Columns [begin, end) of the band that lie inside the image."""
        columns, pad = self.layout.band_columns, self.form.pad[1]
        return min(max(pad, 0), columns), max(0, min(columns, pad + self.form.in_width))

    def _zero_point(self, dtype: str, lanes: int) -> Vector:
        return tirx.Broadcast(tirx.Cast(dtype, self.parameters[0]), lanes)

    def _gather(self, group: ChannelGroup, image: Index, band: Index, channel: Index) -> None:
        layout, f = self.layout, self.form
        top = T.bind(band * (layout.config.rows * f.stride[0]) - f.pad[0])
        last_band = (layout.bands - 1) * layout.config.rows * f.stride[0] - f.pad[0]
        reach = layout.row_offsets[-1]
        inside = tirx.all(top >= 0, top + reach < f.in_height)
        left, right = self._inner_columns()
        if left >= right:
            return

        def columns(checked: bool) -> None:
            with T.serial(left, right) as x:
                for row_group in range(layout.row_groups):
                    first = self._band_index(group, x, row_group)
                    pixel = (image * f.in_height * f.in_width + x - f.pad[1]) * self.in_pitch + channel
                    self._gather_lanes(group, first, row_group, top, pixel, checked)

        if f.pad[0] <= 0 and last_band + reach < f.in_height:
            columns(False)
            return
        with T.If(inside):
            with T.Then():
                columns(False)
            with T.Else():
                columns(True)

    def _gather_lanes(
        self, group: ChannelGroup, first: Index, row_group: int, top: Index, pixel: Index, checked: bool
    ) -> None:
        """Interleaves `depth` rows of one column into the 4 vectors at band[first:]."""
        layout, f = self.layout, self.form
        slots = [row_group * layout.depth + d for d in range(layout.depth)]
        offsets = [layout.row_offsets[min(s, len(layout.row_offsets) - 1)] for s in slots]

        def load(d: int, begin: int, count: int) -> Vector:
            row = top + offsets[d]
            value = _load(self.input, row * f.in_width * self.in_pitch + pixel + begin, f"{layout.input_dtype}x{count}")
            if checked:
                zero = self._zero_point(layout.input_dtype, count)
                value = tirx.if_then_else(tirx.all(row >= 0, row < f.in_height), value, zero)
            return T.bind(value)

        for v, vector in enumerate(self._interleave_rows(group.lanes, load)):
            size = group.lanes * layout.depth
            _store(self.band, first + v * size, vector, size)

    def _interleave_rows(self, lanes: int, load: Any) -> list[Vector]:
        """The 4 vectors of a column, from `load(row, first channel, channels)`."""
        size = VECTORS * lanes
        match self.layout.depth, self.form.input:
            case 4, _:
                rows = [load(d, 0, size) for d in range(4)]
                top, bottom = _interleave(rows[0], rows[1], size, 16), _interleave(rows[2], rows[3], size, 16)
                return [v for a, b in zip(top, bottom, strict=True) for v in _interleave(a, b, size, 16, 2)]
            case 2, ElementType.I8:
                pairs = _interleave(load(0, 0, size), load(1, 0, size), size, 16)
                zero = tirx.Broadcast(tirx.const(0, "uint8"), size)
                widened = [v for p in pairs for v in _interleave(p, zero, size, 16)]
                return [tirx.reinterpret(f"int16x{2 * lanes}", v) for v in widened]
            case 2, _:
                half = 2 * lanes
                parts = [[load(d, half * h, half) for d in range(2)] for h in range(2)]
                return [v for a, b in parts for v in _interleave(a, b, half, 8)]
            case _:
                return [tirx.Cast(f"int16x{lanes}", load(0, v * lanes, lanes)) for v in range(VECTORS)]

    def _contract(self, group: ChannelGroup, image: Index, band: Index, channel: Index, lane: Index) -> None:
        layout, f = self.layout, self.form
        columns = layout.config.columns
        steps = sum(len(s) for s in layout.steps)
        weights = T.bind(lane * (steps * layout.depth))
        done = 0
        for row in range(layout.config.rows):
            oh = band * layout.config.rows + row
            with _when(oh < f.out_height, f.out_height % layout.config.rows != 0):
                with T.serial(0, -(-f.out_width // columns)) as i:
                    ow = T.bind(tirx.min(i * columns, f.out_width - columns))
                    pixel = T.bind(((image * f.out_height + oh) * f.out_width + ow) * self.out_pitch + channel)
                    first = weights + done * group.width * layout.depth
                    self._tile(group, row, ow, first, lane, pixel)
            done += len(layout.steps[row])

    def _tile(self, group: ChannelGroup, row: int, ow: Index, weights: Index, lane: Index, pixel: Index) -> None:
        """`columns` neighbouring outputs of one row; each 4 vectors."""
        f, columns = self.form, range(self.layout.config.columns)
        results: list[list[Vector]] = [[] for _ in columns]
        for v in range(VECTORS):
            accumulators = self._accumulate(group, row, v, ow, weights, lane)
            for c in columns:
                a = accumulators[c]
                results[c].append(self._rescaled(group.lanes, a, lane * 3 + v * 3 * group.lanes) if f.requantizes else a)
        for c in columns:
            value, size = self._narrow(group, results[c]), group.stored
            if size < group.width:
                value = _shuffle([value], range(size))
            _store(self.output, pixel + c * self.out_pitch, value, size)

    def _accumulate(
        self, group: ChannelGroup, row: int, v: int, ow: Index, weights: Index, lane: Index
    ) -> list[Vector]:
        layout, f, size = self.layout, self.form, group.lanes * self.layout.depth
        start = T.bind(_load(self.bias, lane + v * group.lanes, f"int32x{group.lanes}"))
        accumulators = [start for _ in range(layout.config.columns)]
        for step, (kw, row_group) in enumerate(layout.steps[row]):
            w = T.bind(_load(self.weight, weights + (step * VECTORS + v) * size, f"{layout.weight_dtype}x{size}"))
            for c in range(layout.config.columns):
                column = (ow + c) * f.stride[1] + kw * f.dilation[1]
                index = self._band_index(group, column, row_group) + v * size
                x = _load(self.band, index, f"{layout.band_dtype}x{size}")
                accumulators[c] = T.bind(self._dot(group.lanes, accumulators[c], x, w))
        return accumulators

    def _dot(self, lanes: int, accumulator: Vector, x: Vector, w: Vector) -> Vector:
        """accumulator + the sums of `depth` neighbouring products, modulo 2**32."""
        i32, u32 = f"int32x{lanes}", f"uint32x{lanes}"

        def add(value: Vector) -> Vector:  # unsigned: LLVM takes overflow of signed sums for undefined
            return tirx.reinterpret(i32, tirx.reinterpret(u32, accumulator) + tirx.reinterpret(u32, value))

        match self.layout.machine.dot, self.layout.depth:
            case DotProduct.VNNI, 4:
                return _call(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", i32, accumulator, x, w)
            case DotProduct.VNNI, _:
                return _call(f"llvm.x86.avx512.vpdpwssd.{32 * lanes}", i32, accumulator, x, w)
            case DotProduct.PMADDWD, 2:
                return add(_call(_MULTIPLY_PAIRS[lanes], i32, x, w))
            case DotProduct.SDOT, 4:
                return _call(f"llvm.aarch64.neon.sdot.v{lanes}i32.v{4 * lanes}i8", i32, accumulator, x, w)
            case _:
                return add(tirx.Cast(i32, x) * tirx.Cast(i32, w))

    def _rescaled(self, lanes: int, accumulator: Vector, index: Index) -> Vector:
        """floor(accumulator * multiplier / 2**shift + 1/2), low 32 bits."""
        parity = self.layout.splits_parity
        count = lanes // 2 if parity else lanes
        i64 = f"int64x{count}"
        thirty_two = tirx.Broadcast(tirx.const(32, "int64"), count)

        def constants(part: int, half: int) -> Vector:
            return _load(self.rescale, index + part * lanes + half * count, i64)

        def low(x: Vector) -> Vector:  # what vpmuldq reads of a 64-bit lane
            return (x << thirty_two) >> thirty_two

        def scaled(x: Vector, half: int) -> Vector:
            product = x * low(constants(0, half))
            return (product + constants(1, half)) >> constants(2, half)

        if not parity:
            return T.bind(tirx.Cast(f"int32x{lanes}", scaled(tirx.Cast(i64, accumulator), 0)))
        pairs = T.bind(tirx.reinterpret(i64, accumulator))
        halves = [scaled(low(pairs), 0), scaled(pairs >> thirty_two, 1)]
        words = [T.bind(tirx.reinterpret(f"int32x{lanes}", h)) for h in halves]
        return T.bind(_shuffle(words, [(i % 2) * lanes + i - i % 2 for i in range(lanes)]))

    def _narrow(self, group: ChannelGroup, vectors: list[Vector]) -> Vector:
        """Codes of a group in the order of channels, as they are stored."""
        lanes, width, f = group.lanes, group.width, self.form
        if self.layout.packs_bytes:
            return self._narrow_bytes(lanes, vectors)
        position = np.argsort(self.layout.channel_order(lanes).ravel())
        values = T.bind(_shuffle(vectors, [int(p) for p in position]))
        if f.requantizes:
            zero, low, high = (self.parameters[i] for i in (1, 2, 3))
            bound = tirx.max(tirx.min(values, tirx.Broadcast(high - zero, width)), tirx.Broadcast(low - zero, width))
            values = bound + tirx.Broadcast(zero, width)
        return tirx.Cast(f"{self.layout.output_dtype}x{width}", values)

    def _narrow_bytes(self, lanes: int, vectors: list[Vector]) -> Vector:
        """Saturating packs restore the order of channels. Saturation to int16 keeps the result: a value
        beyond it is beyond every bound whatever the zero point is."""
        words, byte = f"int16x{2 * lanes}", f"uint8x{4 * lanes}"
        zero = tirx.Broadcast(tirx.Cast("int16", self.parameters[1]), 2 * lanes)
        pairs = [_call(_PACK_WORDS[lanes], words, *vectors[i : i + 2]) for i in (0, 2)]
        pairs = [_call(f"llvm.sadd.sat.v{2 * lanes}i16", words, p, zero) for p in pairs]
        value = tirx.reinterpret(byte, _call(_PACK_BYTES[lanes], f"int8x{4 * lanes}", *pairs))
        low, high = (tirx.Broadcast(tirx.Cast("uint8", self.parameters[i]), 4 * lanes) for i in (2, 3))
        return tirx.max(tirx.min(value, high), low)


def _runs(groups: Sequence[ChannelGroup]) -> list[tuple[ChannelGroup, int]]:
    """Groups that follow each other in equal steps, as (first, count)."""
    last = groups[-1]
    if len(groups) == 1 or (last.lanes == groups[0].lanes and last.start == groups[-2].start + last.width):
        return [(groups[0], len(groups))]
    return [(groups[0], len(groups) - 1), (last, 1)]


@contextmanager
def _when(condition: Any, needed: bool) -> Iterator[None]:
    """A guard, where it can fail at all."""
    if not needed:
        yield
        return
    with T.If(condition), T.Then():
        yield
