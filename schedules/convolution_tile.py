"""TIR of a micro-tile: accumulation, requantization and stores of some pixels and vectors of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from compiler.numerics.element import ElementType
from schedules.bits import packed_bytes
from schedules.convolution_packing import ChannelField, Parameter
from schedules.convolution_pairs_tir import accumulate_sorted
from schedules.intrinsics import Expr, broadcast, constant, load, reinterpret, store, store_bits, tir, tirx
from schedules.intrinsics_x86 import LiftedDot, PairDot

if TYPE_CHECKING:
    from schedules.convolution_tir import Share


def run_all(parts: Iterator[None]) -> None:
    for _ in parts:
        pass


def _nothing() -> None: ...


def _far(start: Expr, offset: Expr) -> Expr:
    """start + offset in 64 bits: LLVM takes a 32-bit sum apart only where it knows that it fits."""
    return tirx.Cast("int64", start) + tirx.Cast("int64", offset)


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


class MicroTile:
    """Emits the accumulation, requantization and stores of one micro-tile."""

    def __init__(self, share: Share, y: Expr, x: Expr, columns: int, panel: Expr, ragged: bool) -> None:
        self.share, self.plan, self.g, self.code = share, share.plan, share.g, share.code
        self.y, self.x, self.panel, self.ragged = y, x, panel, ragged
        self.vectors = self.plan.tail_vectors if ragged else share.config.vectors
        self.lanes = share.config.lanes
        self.gives_bits = self.g.form.output is ElementType.B1
        # Sums of a pixel; those that become bits are taken eight at a time.
        width = self.vectors * self.lanes
        self.pixel_lanes = -(-width // 8) * 8 if self.gives_bits else width
        self.pixels = [(i, j) for i in range(share.config.rows) for j in range(columns)]
        together = self.code.pixels
        # A group that lacks pixels has its last one twice.
        last = len(self.pixels) - 1
        self.pixel_groups = [
            [min(first + i, last) for i in range(together)] for first in range(0, last + 1, together)
        ]
        per_group = self.plan.panels_per_group
        self.group, self.group_panel = panel // per_group, panel % per_group
        self.between: Callable[[], None] = _nothing  # called after every product

    def emit(self) -> None:
        self._start()
        self._accumulate()
        self._fold()
        self._finish()

    def _finish(self) -> None:
        """From sums to stored results."""
        if self.gives_bits:
            self._store_bits()
        elif self.g.form.requantizes:
            self._move_left()
            run_all(self.finish())
        else:
            for p, v in self._places():
                self._store(p, v, 1, self.get(p, v), "int32")

    def clear(self) -> None:
        """Makes all accumulators 0."""
        self._allocate()
        for p, v in self._places():
            self.set(p, v, constant(0, "int32", self.lanes))

    def take_over(self, other: MicroTile) -> None:
        """The accumulators of another tile of the same size."""
        for p, v in self._places():
            self.set(p, v, load(other.accumulators, other._slot(p, v), "int32", self.lanes))

    def accumulate_while(self, parts: Iterator[None]) -> None:
        """All products, and between those of the first segment the given parts."""
        self._start()
        g, base, weights = self.g, tir.Bind(self.first_activation()), self._first_weight()
        together = min(g.step_groups, _OVERLAPPED_STEPS)
        self.between = _Pace(parts, self._finishing_parts / (together * len(self._places())))
        self._groups(base, weights, 0, together)
        run_all(parts)
        self.between = _nothing
        if g.step_groups > together:
            with tir.serial(0, g.step_groups - together) as r:
                self._groups(base, weights, r + together, 1)
        if g.segments > 1:
            self._segments(base, weights, 1)
        self._move_left()

    def _allocate(self) -> None:
        """`sums` take the products, `accumulators` what `_fold` makes of them: often the same registers."""
        code, width = self.code, self.vectors * self.lanes
        self.accumulators = tir.alloc_buffer((len(self.pixels) * self.pixel_lanes,), "int32", scope="local")
        missing = self.pixel_lanes - width
        for p in range(len(self.pixels) if missing else 0):
            store(self.accumulators, self._slot(p, self.vectors), constant(0, "int32", missing), missing)
        self.sums = self.accumulators
        if code.folds:
            count = len(self.pixel_groups) * code.registers * width
            self.sums = tir.alloc_buffer((count,), "int32", scope="local")

    def _start(self) -> None:
        self._allocate()
        self.bias = [tir.Bind(self._channel(ChannelField.BIAS, v)) for v in range(self.vectors)]
        for v, bias in enumerate(self.bias):
            for r, value in enumerate(self.code.start(bias, self.lanes)):
                bound = tir.Bind(value)
                for group in range(len(self.pixel_groups)):
                    store(self.sums, self._sum_slot(group, v, r), bound, self.lanes)

    def _fold(self) -> None:
        if not self.code.folds:
            return
        for group, pixels in enumerate(self.pixel_groups):
            for v in range(self.vectors):
                sums = [self._sum(group, v, r) for r in range(self.code.registers)]
                folded = self.code.fold(sums, self.bias[v], self.lanes)
                for p, value in dict(zip(pixels, folded, strict=True)).items():
                    self.set(p, v, value)

    def _sum_slot(self, group: int, v: int, register: int) -> int:
        if not self.code.folds:
            return self._slot(group, v)
        return ((group * self.vectors + v) * self.code.registers + register) * self.lanes

    def _sum(self, group: int, v: int, register: int) -> Expr:
        return load(self.sums, self._sum_slot(group, v, register), "int32", self.lanes)

    def _places(self) -> list[tuple[int, int]]:
        return [(p, v) for p in range(len(self.pixels)) for v in range(self.vectors)]

    def _slot(self, p: int, v: int) -> int:
        return p * self.pixel_lanes + v * self.lanes

    def get(self, p: int, v: int) -> Expr:
        return load(self.accumulators, self._slot(p, v), "int32", self.lanes)

    def set(self, p: int, v: int, value: Expr) -> None:
        store(self.accumulators, self._slot(p, v), value, self.lanes)

    def _channel(self, field: ChannelField, v: int) -> Expr:
        width = self.share.config.vectors * self.lanes
        offset = (self.panel * self.plan.channel_fields + int(field)) * width + v * self.lanes
        return load(self.share.operands["channels"], offset, "int32", self.lanes)

    def _accumulate(self) -> None:
        if isinstance(self.code, PairDot) and self.g.sorts_steps:
            accumulate_sorted(self, self.code)
            return
        self._segments(tir.Bind(self.first_activation()), self._first_weight(), 0)

    def _segments(self, base: Expr, weights: Expr, first_row: int) -> None:
        """Products of the segments from a row of them on."""
        g, form, share = self.g, self.g.form, self.share
        unroll, step_groups = share.config.unroll, g.step_groups
        segment_bytes = step_groups * self.vectors * self.plan.vector_bytes
        rounds, offsets = self.plan.rounds, None
        count: Expr = rounds
        if self.plan.indexed_loop:
            count, *offsets = self._indexed_loop()
        with tir.serial(first_row, g.segment_rows) as i, tir.serial(0, g.segment_columns) as j:
            origin = base + i * form.dilation[0] * share.row_pitch + j * form.dilation[1] * g.pixel_pitch
            segment = weights + (i * g.segment_columns + j) * segment_bytes
            if rounds:
                with tir.serial(0, count) as r:
                    self._groups(origin, segment, r * unroll, unroll, offsets=offsets)
            self._groups(origin, segment, rounds * unroll, step_groups - rounds * unroll, peeled=g.peels)

    def _indexed_loop(self) -> list[Expr]:
        """The values of `ConvolutionLayout.indexed_loop`."""
        first = len(Parameter)
        parameters, count = self.share.operands["parameters"], len(self.plan.indexed_loop)
        return [tir.Bind(parameters[i]) for i in range(first, first + count)]

    def first_activation(self) -> Expr:
        """Offset in the source of the first activation of the micro-tile's first pixel."""
        g, share = self.g, self.share
        row = share.origin + self.y * g.stride[0] * share.row_pitch
        return row + self.x * g.stride[1] * g.pixel_pitch + self.group * g.group_inputs

    def _first_weight(self) -> Expr:
        """Offset of the panel's weights."""
        panel_bytes = self.plan.panel_weight_bytes(self.share.config.vectors)
        return self.group * self.plan.group_weight_bytes + self.group_panel * panel_bytes

    def _groups(
        self,
        origin: Expr,
        segment: Expr,
        first: Expr,
        count: int,
        *,
        peeled: bool = False,
        offsets: Sequence[Expr] | None = None,
    ) -> None:
        """`count` step groups from `first` on; `peeled` where the last of them may be short.

        offsets: of the vectors of weights behind the first, where they are not known.
        """
        g, products, size = self.g, self.g.dot.products, self.plan.vector_bytes
        activations = origin + first * (g.fields * products)
        weight, part = self.share.operands["weight"], size // self.code.registers
        start = segment + first * (self.vectors * size)
        for group in range(count):
            self.prefetch(start + group * (self.vectors * size), self.vectors * size)
            numbers = range(group * self.vectors, (group + 1) * self.vectors)
            vectors = [start + i * size if offsets is None else _far(start, offsets[i]) for i in numbers]
            packed = [
                tir.Bind(load(weight, vector + r * part, "int8", part))
                for vector in vectors
                for r in range(self.code.registers)
            ]
            ends = peeled and group == count - 1
            fields = g.steps - (g.step_groups - 1) * g.fields if ends else g.fields
            for field in range(fields):
                surplus = -g.run % products if ends and field == fields - 1 else 0
                weights = [tir.Bind(self._unpacked(w, field, surplus)) for w in packed]
                half = ends and field == fields - 1 and g.ends_in_half
                self._step(activations, group * g.fields + field, weights, half)

    def prefetch(self, weights: Expr, count: int) -> None:
        """Asks for the weights that come a while after the `count` bytes that are about to be used."""
        ahead = self.plan.prefetched_bytes
        if ahead:
            self.code.prefetch(self.share.operands["weight"], weights + ahead, count)

    def _step(self, activations: Expr, step: int, weights: list[Expr], half: bool) -> None:
        code, source, lanes = self.code, self.share.source, self.lanes
        offsets = self.pixel_offsets()
        add = code.accumulate_half if half else code.accumulate
        for group, pixels in enumerate(self.pixel_groups):
            a = tir.Bind(code.gather(source, [activations + offsets[p] for p in pixels], step, lanes))
            for i, w in enumerate(weights):
                v, r = divmod(i, code.registers)
                value = add(self._sum(group, v, r), a, w, lanes)
                store(self.sums, self._sum_slot(group, v, r), value, lanes)
                self.between()

    def pixel_offsets(self) -> list[int]:
        stride, pitch = self.g.stride, self.g.pixel_pitch
        return [i * stride[0] * self.share.row_pitch + j * stride[1] * pitch for i, j in self.pixels]

    def _unpacked(self, packed: Expr, field: int, surplus: int) -> Expr:
        """int8 weights of one step from bytes of several; the last `surplus` products of a lane are 0.

        Only binary weights need that: every other width has a code for 0.
        """
        element, n = self.g.form.weight, self.plan.vector_bytes // self.code.registers
        if element.bits == 8:
            return packed
        if isinstance(self.code, LiftedDot):
            return self.code.lifted(packed, field, n)
        if element is not ElementType.B1 and self.plan.machine.shifts_bytes:
            # SHL and SSHR; the highest field takes SSHR alone.
            above = constant(8 - (field + 1) * element.bits, "int8", n)
            return tirx.shift_right(packed << above, constant(8 - element.bits, "int8", n))
        unsigned = tirx.shift_right(
            reinterpret(f"uint8x{n}", packed), constant(field * element.bits, "uint8", n)
        )
        code = reinterpret(f"int8x{n}", unsigned & constant((1 << element.bits) - 1, "uint8", n))
        if element is not ElementType.B1:
            return code + constant(element.low, "int8", n)
        signs = code + code - constant(1, "int8", n)
        if not surplus:
            return signs
        kept = [int(i % self.g.dot.products < self.g.dot.products - surplus) for i in range(n)]
        nothing_or_all = [constant(value, "int8", n) for value in (0, -1)]
        return signs & tirx.Shuffle(nothing_or_all, [n * k for k in kept])

    def _parameter(self, field: Parameter) -> Expr:
        return self.share.operands["parameters"][int(field)]

    def _move_left(self) -> None:
        """Large factors: a uniform branch, never taken in most layers."""
        with tir.If(self._parameter(Parameter.MOVES_LEFT) != 0), tir.Then():
            for v in range(self.vectors):
                limit = tir.Bind(self._channel(ChannelField.LIMIT, v))
                left = tir.Bind(self._channel(ChannelField.LEFT, v))
                for p in range(len(self.pixels)):
                    self.set(p, v, self.code.move_left(self.get(p, v), limit, left, self.lanes))

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
        return self.code.rescale(self.get(p, v), multiplier, rounding, shift, self.lanes)

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

    def _store_bits(self) -> None:
        """A bit for each channel of each pixel; those behind the last channel are 0."""
        g, output = self.g, self.share.operands["output"]
        valid = self.vectors * self.lanes - self._surplus(self.vectors - 1)
        first = self.group_panel * (self.share.config.vectors * self.lanes // 8)
        piece = max(self.lanes, 8)
        for p in range(len(self.pixels)):
            offset = self._output_pixel(p) * packed_bytes(g.form.out_channels) + first
            for lane in range(0, self.pixel_lanes, piece):
                store_bits(output, offset + lane // 8, self._bits(p, lane, piece), piece, valid - lane)

    def _bits(self, p: int, lane: int, lanes: int) -> Expr:
        """Which results of a pixel are +1, from a lane on."""
        sums = load(self.accumulators, self._slot(p, 0) + lane, "int32", lanes)
        return sums > broadcast(self._parameter(Parameter.LOW), lanes)

    def _output_pixel(self, p: int) -> Expr:
        """Number of pixel p in the output."""
        i, j = self.pixels[p]
        row = self.share.image * self.g.height + self.share.row + self.y + i
        return row * self.g.width + self.share.column + self.x + j

    def _store(self, p: int, v: int, count: int, value: Expr, dtype: str) -> None:
        """Stores `count` vectors from v on; a vector that is not all channels comes alone."""
        g, share, output = self.g, self.share, self.share.operands["output"]
        pixel = self._output_pixel(p)
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
