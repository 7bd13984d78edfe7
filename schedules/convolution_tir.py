"""TIR of a convolution kernel: shares, micro-tiles and their ragged ends, from a plan's decisions.

A micro-tile keeps pixels x vectors of int32 accumulators in registers over the whole reduction. Ragged
ends are micro-tiles of their own size rather than predicates (a predicated tile cannot be tensorized,
and a predicate in the inner loop costs more than the tile), which is why the nest is written here and
not derived by schedule primitives. The outermost loop is parallel over shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tvm.script.ir_builder import IRBuilder

from compiler.numerics.element import ElementType
from schedules.convolution import ConvolutionPlan
from schedules.convolution_copy import copy_rows
from schedules.convolution_instructions import instructions
from schedules.convolution_packing import ChannelField, Parameter
from schedules.intrinsics import (
    Buffer,
    Expr,
    constant,
    load,
    reinterpret,
    store,
    tir,
    tirx,
)


def convolution_function(plan: ConvolutionPlan) -> Any:
    """PrimFunc of the plan, named by its symbol."""
    with IRBuilder() as builder, tir.prim_func(s_tir=True):
        tir.func_name(plan.symbol)
        tir.func_attr({"global_symbol": plan.symbol, "tirx.noalias": True})
        operands = {name: _operand(plan, name) for name in plan.operands}
        with tir.parallel(0, plan.tiles) as share:
            _Share(plan, operands, share).emit()
    return builder.get()


def _operand(plan: ConvolutionPlan, name: str) -> Buffer:
    """A flat buffer aligned to its elements only, because operands may be slices of wider tensors."""
    count, dtype = plan.operand_type(name)
    itemsize = int(dtype.lstrip("uint")) // 8
    return tir.arg(name, tir.buffer((count,), dtype, align=itemsize))


class _Share:
    """Emits one share: a block of output pixels by a range of panels of output channels."""

    def __init__(self, plan: ConvolutionPlan, operands: dict[str, Buffer], share: Expr) -> None:
        self.plan, self.g, self.config = plan, plan.geometry, plan.config
        self.operands = operands
        self.code = instructions(plan)
        blocks = plan.blocks
        panel_block, rest = share % blocks.panels, share // blocks.panels
        column_block, rest = rest % blocks.columns, rest // blocks.columns
        row_block, self.image = rest % blocks.rows, rest // blocks.rows
        self.panel = panel_block * self.config.share_panels
        self.column = column_block * self.config.share_columns
        self.row = row_block * self.config.share_rows
        self.panels = _clipped(self.config.share_panels, plan.panels, self.panel)
        self.rows = _clipped(self.config.share_rows, self.g.height, self.row)
        self.columns = _clipped(self.config.share_columns, self.g.width, self.column)
        self.last_columns = column_block == blocks.columns - 1

    def emit(self) -> None:
        g = self.g
        if g.copies:
            origin = (self.image, self.row, self.column)
            copy_rows(self.plan, self.operands, origin, (self.rows, self.columns))
            self.source, self.row_pitch = self.operands["scratch"], self.plan.scratch_row
            self.origin: Expr = 0
        else:
            self.source, self.row_pitch = self.operands["input"], g.form.in_width * g.input_pitch
            row = self.image * g.form.in_height + self.row * g.stride[0]
            self.origin = row * self.row_pitch + self.column * g.stride[1] * g.pixel_pitch
        if self.config.overlaps:
            self._over_panels(self._overlapping)
        elif self.config.panels_inner:
            self._over_pixels(lambda *pixels: self._over_panels(lambda *panel: self._micro(*pixels, *panel)))
        else:
            self._over_panels(lambda *panel: self._over_pixels(lambda *pixels: self._micro(*pixels, *panel)))

    def _over_pixels(self, body: Callable[[Expr, Expr, int], None]) -> None:
        """body(row, column, columns of the micro-tile), relative to the share."""
        height, width = self.config.rows, self.config.columns
        tail = self.g.width % width
        with tir.serial(0, self.rows // height) as y:
            with tir.serial(0, self.columns // width) as x:
                body(y * height, x * width, width)
            if tail:
                with tir.If(self.last_columns), tir.Then():
                    body(y * height, self.columns - tail, tail)

    def _overlapping(self, panel: Expr, ragged: bool) -> None:
        """All pixels for one panel; a micro-tile is finished during the products of its right neighbour."""
        height, width = self.config.rows, self.config.columns
        tail, tiles = self.g.width % width, tirx.const(1, "int32") * (self.columns // width)
        with tir.serial(0, self.rows // height) as y:
            column = tir.alloc_buffer((1,), "int32", scope="local")
            store(column, 0, tirx.const(0, "int32"), 1)
            # The first micro-tile finishes zeros in its own place, which it then overwrites.
            before = _MicroTile(self, y * height, column[0], width, panel, ragged)
            before.clear()
            with tir.serial(0, tiles) as x:
                tile = _MicroTile(self, y * height, x * width, width, panel, ragged)
                tile.accumulate_while(before.finish())
                before.take_over(tile)
                store(column, 0, x * width, 1)
            with tir.If(tiles > 0), tir.Then():
                _run(before.finish())
            if tail:
                with tir.If(self.last_columns), tir.Then():
                    _MicroTile(self, y * height, self.columns - tail, tail, panel, ragged).emit()

    def _over_panels(self, body: Callable[[Expr, bool], None]) -> None:
        """body(panel, whether it is the ragged last panel of a channel group)."""
        per_group = self.plan.panels_per_group
        with tir.serial(0, self.panels) as offset:
            panel = self.panel + offset
            if per_group == 1 or not self.plan.ragged_panels:
                body(panel, self.plan.ragged_panels)
                return
            with tir.If(panel % per_group == per_group - 1):
                with tir.Then():
                    body(panel, True)
                with tir.Else():
                    body(panel, False)

    def _micro(self, y: Expr, x: Expr, columns: int, panel: Expr, ragged: bool) -> None:
        _MicroTile(self, y, x, columns, panel, ragged).emit()


def _run(parts: Iterator[None]) -> None:
    for _ in parts:
        pass


def _clipped(block: int, total: int, start: Expr) -> Expr:
    """Extent of a block that starts at `start`; a number where all blocks are equal."""
    return block if total % block == 0 else tirx.min(tirx.const(block, "int32"), total - start)


def _nothing() -> None: ...


class _Pace:
    """Takes `rate` parts with every call, on average."""

    def __init__(self, parts: Iterator[None], rate: float) -> None:
        self.parts, self.rate, self.due = parts, rate, 0.0

    def __call__(self) -> None:
        self.due += self.rate
        while self.due >= 1:
            next(self.parts, None)
            self.due -= 1


# Products take half of the slots, finishing a vector the other half of some sixteen products' time.
_OVERLAPPED_STEPS = 16


class _MicroTile:
    """Emits the accumulation, requantization and stores of one micro-tile."""

    def __init__(self, share: _Share, y: Expr, x: Expr, columns: int, panel: Expr, ragged: bool) -> None:
        self.share, self.plan, self.g, self.code = share, share.plan, share.g, share.code
        self.y, self.x, self.panel, self.ragged = y, x, panel, ragged
        self.vectors = self.plan.tail_vectors if ragged else share.config.vectors
        self.lanes = share.config.lanes
        self.pixels = [(i, j) for i in range(share.config.rows) for j in range(columns)]
        per_group = self.plan.panels_per_group
        self.group, self.group_panel = panel // per_group, panel % per_group
        self.between: Callable[[], None] = _nothing  # called after every product

    def emit(self) -> None:
        self._start()
        self._accumulate()
        if self.g.form.requantizes:
            self._move_left()
            _run(self.finish())
        else:
            for p in range(len(self.pixels)):
                for v in range(self.vectors):
                    self._store(p, v, 1, self._get(p, v), "int32")

    def clear(self) -> None:
        """Makes all accumulators 0."""
        self._allocate()
        for p, v in self._places():
            self._set(p, v, constant(0, "int32", self.lanes))

    def take_over(self, other: _MicroTile) -> None:
        """The accumulators of another tile of the same size."""
        for p, v in self._places():
            self._set(p, v, load(other.accumulators, other._slot(p, v), "int32", self.lanes))

    def accumulate_while(self, parts: Iterator[None]) -> None:
        """All products, and between those of the first segment the given parts."""
        self._start()
        g, base, weights = self.g, tir.Bind(self._first_activation()), self._first_weight()
        together = min(g.step_groups, _OVERLAPPED_STEPS)
        self.between = _Pace(parts, self._finishing_parts / (together * len(self._places())))
        self._groups(base, weights, 0, together)
        _run(parts)
        self.between = _nothing
        if g.step_groups > together:
            with tir.serial(0, g.step_groups - together) as r:
                self._groups(base, weights, r + together, 1)
        if g.segments > 1:
            self._segments(base, weights, 1)
        self._move_left()

    def _allocate(self) -> None:
        count = len(self.pixels) * self.vectors * self.lanes
        self.accumulators = tir.alloc_buffer((count,), "int32", scope="local")

    def _start(self) -> None:
        self._allocate()
        bias = [tir.Bind(self._channel(ChannelField.BIAS, v)) for v in range(self.vectors)]
        for p, v in self._places():
            self._set(p, v, bias[v])

    def _places(self) -> list[tuple[int, int]]:
        return [(p, v) for p in range(len(self.pixels)) for v in range(self.vectors)]

    def _slot(self, p: int, v: int) -> int:
        return (p * self.vectors + v) * self.lanes

    def _get(self, p: int, v: int) -> Expr:
        return load(self.accumulators, self._slot(p, v), "int32", self.lanes)

    def _set(self, p: int, v: int, value: Expr) -> None:
        store(self.accumulators, self._slot(p, v), value, self.lanes)

    def _channel(self, field: ChannelField, v: int) -> Expr:
        width = self.share.config.vectors * self.lanes
        offset = (self.panel * self.plan.channel_fields + int(field)) * width + v * self.lanes
        return load(self.share.operands["channels"], offset, "int32", self.lanes)

    def _accumulate(self) -> None:
        self._segments(tir.Bind(self._first_activation()), self._first_weight(), 0)

    def _segments(self, base: Expr, weights: Expr, first_row: int) -> None:
        """Products of the segments from a row of them on."""
        g, form, share = self.g, self.g.form, self.share
        unroll, step_groups = share.config.unroll, self.g.step_groups
        segment_bytes = step_groups * self.vectors * self.plan.vector_bytes
        # A last group that is short or needs its surplus products masked is peeled off.
        peeled = form.weight.bits < 8 and g.run % (g.dot.products * g.fields) != 0
        rounds = (step_groups - int(peeled)) // unroll
        with tir.serial(first_row, g.segment_rows) as i, tir.serial(0, g.segment_columns) as j:
            origin = base + i * form.dilation[0] * share.row_pitch + j * form.dilation[1] * g.pixel_pitch
            segment = weights + (i * g.segment_columns + j) * segment_bytes
            if rounds:
                with tir.serial(0, rounds) as r:
                    self._groups(origin, segment, r * unroll, unroll)
            self._groups(origin, segment, rounds * unroll, step_groups - rounds * unroll, peeled)

    def _first_activation(self) -> Expr:
        """Offset in the source of the first activation of the micro-tile's first pixel."""
        g, share = self.g, self.share
        row = share.origin + self.y * g.stride[0] * share.row_pitch
        return row + self.x * g.stride[1] * g.pixel_pitch + self.group * g.group_inputs

    def _first_weight(self) -> Expr:
        """Offset of the panel's weights."""
        panel_bytes = self.plan.panel_weight_bytes(self.share.config.vectors)
        return self.group * self.plan.group_weight_bytes + self.group_panel * panel_bytes

    def _groups(self, origin: Expr, segment: Expr, first: Expr, count: int, peeled: bool = False) -> None:
        """`count` step groups from `first` on; `peeled` where the last of them may be short."""
        g, products, size = self.g, self.g.dot.products, self.plan.vector_bytes
        activations = origin + first * (g.fields * products)
        weight = self.share.operands["weight"]
        for group in range(count):
            offset = segment + (first + group) * (self.vectors * size)
            packed = [tir.Bind(load(weight, offset + v * size, "int8", size)) for v in range(self.vectors)]
            ends = peeled and group == count - 1
            fields = g.steps - (g.step_groups - 1) * g.fields if ends else g.fields
            for field in range(fields):
                surplus = -g.run % products if ends and field == fields - 1 else 0
                weights = [tir.Bind(self._unpacked(w, field, surplus)) for w in packed]
                self._step(activations, group * g.fields + field, weights)

    def _step(self, activations: Expr, step: int, weights: list[Expr]) -> None:
        for p, offset in enumerate(self._pixel_offsets()):
            a = tir.Bind(self.code.spread(self.share.source, activations + offset, step, self.lanes))
            for v, w in enumerate(weights):
                self._set(p, v, self.code.accumulate(self._get(p, v), a, w, self.lanes))
                self.between()

    def _pixel_offsets(self) -> list[int]:
        stride, pitch = self.g.stride, self.g.pixel_pitch
        return [i * stride[0] * self.share.row_pitch + j * stride[1] * pitch for i, j in self.pixels]

    def _unpacked(self, packed: Expr, field: int, surplus: int) -> Expr:
        """int8 weights of one step from bytes of several; the last `surplus` products of a lane are 0.

        Only binary weights need that: every other width has a code for 0.
        """
        element, n = self.g.form.weight, self.plan.vector_bytes
        if element.bits == 8:
            return packed
        unsigned = tirx.shift_right(
            reinterpret(f"uint8x{n}", packed), constant(field * element.bits, "uint8", n)
        )
        code = reinterpret(f"int8x{n}", unsigned & constant((1 << element.bits) - 1, "uint8", n))
        if element is not ElementType.B1:
            return code + constant(element.low, "int8", n)
        signs = code + code - constant(1, "int8", n)
        if not surplus:
            return signs
        word = f"int{8 * self.g.dot.products}"
        mask = constant((1 << 8 * (self.g.dot.products - surplus)) - 1, word, self.lanes)
        return reinterpret(f"int8x{n}", reinterpret(f"{word}x{self.lanes}", signs) & mask)

    def _parameter(self, field: Parameter) -> Expr:
        return self.share.operands["parameters"][int(field)]

    def _move_left(self) -> None:
        """Factors of 1/4 and more: a uniform branch, never taken in most layers."""
        with tir.If(self._parameter(Parameter.MOVES_LEFT) != 0), tir.Then():
            for v in range(self.vectors):
                limit = tir.Bind(self._channel(ChannelField.LIMIT, v))
                left = tir.Bind(self._channel(ChannelField.LEFT, v))
                lowest = constant(-1, "int32", self.lanes) - limit
                for p in range(len(self.pixels)):
                    clamped = tirx.max(tirx.min(self._get(p, v), limit), lowest)
                    self._set(p, v, tirx.shift_left(clamped, left))

    @property
    def _finishing_parts(self) -> int:
        """How many parts `finish` has."""
        return len(self._places()) + -(-len(self._places()) // self.code.narrows[self.g.form.output.bits])

    def finish(self) -> Iterator[None]:
        """Rescales, narrows and stores, a few instructions at a time; pixel by pixel, so that a pixel's
        neighbouring channels meet."""
        lanes, dtype = self.lanes, self.plan.operand_type("output")[1]
        zero, low, high = (self._parameter(f) for f in (Parameter.ZERO_POINT, Parameter.LOW, Parameter.HIGH))
        together = self.code.narrows[self.g.form.output.bits]
        fields = (ChannelField.MULTIPLIER, ChannelField.ROUNDING, ChannelField.SHIFT)
        constants = [[tir.Bind(self._channel(f, v)) for f in fields] for v in range(self.vectors)]
        places = self._places()
        for first in range(0, len(places), together):
            batch = places[first : first + together]
            scaled: list[Expr] = []
            for p, v in batch:
                scaled.append(tir.Bind(self._rescaled(p, v, constants[v])))
                yield
            scaled += [scaled[-1]] * (together - len(scaled))
            codes = tir.Bind(self.code.narrow(scaled, zero, low, high, lanes, dtype))
            for run in self._runs(batch):
                part = list(range(run[0] * lanes, (run[-1] + 1) * lanes))
                value = tirx.Shuffle([codes], part) if len(part) < together * lanes else codes
                p, v = batch[run[0]]
                self._store(p, v, len(run), value, dtype)
            yield

    def _rescaled(self, p: int, v: int, constants: list[Expr]) -> Expr:
        multiplier, rounding, shift = constants
        return self.code.rescale(self._get(p, v), multiplier, rounding, shift, self.lanes)

    def _runs(self, batch: list[tuple[int, int]]) -> list[list[int]]:
        """Positions in the batch cut into runs whose channels are neighbours in memory, all valid or one."""
        runs: list[list[int]] = []
        for i, (p, v) in enumerate(batch):
            joins = runs and batch[i - 1] == (p, v - 1) and not self._surplus(v)
            runs[-1].append(i) if joins else runs.append([i])
        return runs

    def _surplus(self, v: int) -> int:
        """Lanes of vector v beyond the group's channels."""
        return self.plan.surplus_lanes if self.ragged and v == self.vectors - 1 else 0

    def _store(self, p: int, v: int, count: int, value: Expr, dtype: str) -> None:
        """Stores `count` vectors from v on; a vector that is not all channels comes alone."""
        g, share, output = self.g, self.share, self.share.operands["output"]
        i, j = self.pixels[p]
        row = share.image * g.height + share.row + self.y + i
        pixel = row * g.width + share.column + self.x + j
        first = (self.group_panel * share.config.vectors + v) * self.lanes
        offset = pixel * g.output_pitch + self.group * g.group_outputs + first
        if not self._surplus(v):
            store(output, offset, value, count * self.lanes)
            return
        staged = tir.alloc_buffer((self.lanes,), dtype, scope="local")
        store(staged, 0, value, self.lanes)
        done, valid = 0, self.lanes - self._surplus(v)
        while done < valid:
            piece = 1 << ((valid - done).bit_length() - 1)
            store(output, offset + done, load(staged, done, dtype, piece), piece)
            done += piece
