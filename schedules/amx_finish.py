"""TIR that requantizes a block of sums from scratch and stores its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schedules.amx import AmxPlan
from schedules.amx_config import ROW_BYTES, TILE_LANES
from schedules.convolution_packing import ChannelField, Parameter
from schedules.intrinsics import Buffer, Expr, load, reinterpret, store, tir, tirx
from schedules.intrinsics_x86 import ByteDot

if TYPE_CHECKING:
    from schedules.amx_tir import Share


class Before:
    """The block that is requantized during the products of the next one: its panel, the number of its first
    output pixel, and where in scratch its sums lie."""

    def __init__(self, plan: AmxPlan) -> None:
        self._both = 2 * plan.sums_at + plan.sums_bytes
        self._fields = tir.alloc_buffer((3,), "int32", scope="local")
        store(self._fields, 2, tirx.const(plan.sums_at, "int32"), 1)

    def become(self, panel: Expr, pixel: Expr) -> None:
        """Another block, whose sums lie in the other half of scratch."""
        sums = self.other_sums
        for field, value in enumerate((panel, pixel, sums)):
            store(self._fields, field, tirx.const(0, "int32") + value, 1)

    @property
    def panel(self) -> Expr:
        return self._fields[0]

    @property
    def pixel(self) -> Expr:
        return self._fields[1]

    @property
    def sums(self) -> Expr:
        return self._fields[2]

    @property
    def other_sums(self) -> Expr:
        """Where the block after it puts its sums."""
        return self._both - self._fields[2]


def moved_in(start: Expr, extent: Expr, size: int) -> Expr:
    if isinstance(extent, int) and extent % size == 0:
        return start
    return tirx.min(start + tirx.const(0, "int32"), extent - size)


def channel_constants(share: Share, panel: Expr, field: ChannelField, v: int) -> Expr:
    """A constant of the 16 channels of tile v of a panel."""
    width = share.config.vectors * TILE_LANES
    offset = (panel * len(ChannelField) + int(field)) * width + v * TILE_LANES
    return load(share.operands["channels"], offset, "int32", TILE_LANES)


def stored_sums(scratch: Buffer, offset: Expr) -> Expr:
    """A row of a stored tile."""
    raw = load(scratch, offset, "uint8", ROW_BYTES)
    return reinterpret(f"int32x{TILE_LANES}", raw)


class Finish:
    """Requantizes and stores the block `before`, in batches of a few vectors."""

    def __init__(self, share: Share, vectors: int, surplus: int, before: Before) -> None:
        self.share, self.plan, self.g, self.config = share, share.plan, share.g, share.config
        self.vectors, self.surplus, self.before = vectors, surplus, before
        self.code = ByteDot()
        self.together = self.code.narrows[self.g.form.output.bits]
        # Pixels of a batch, so that whole groups of vectors are narrowed together.
        self.pixels = min(self.config.pixels, max(1, self.together // vectors))
        self.batches_of_tile = -(-self.config.pixels // self.pixels)
        self.batches = self.config.tiles * self.batches_of_tile
        self.dtype = self.plan.operand_type("output")[1]

    def everything(self) -> None:
        self.some(0, self.batches)

    def some(self, begin: int, end: int) -> None:
        if end > begin:
            with tir.serial(0, end - begin) as b:
                self.one(begin + b)

    def one(self, batch: Expr) -> None:
        """A batch by its number, which may be an expression."""
        tile = tir.Bind(batch // self.batches_of_tile)
        first = (batch - tile * self.batches_of_tile) * self.pixels
        pixel = tir.Bind(moved_in(first, self.config.pixels, self.pixels))
        c = self.config
        row, column = tile // c.columns, tile % c.columns
        sums = self.before.sums + (tile * c.pixels + pixel) * (self.vectors * ROW_BYTES)
        place = self.before.pixel + row * self.g.width + column * c.pixels + pixel
        count = self.pixels * self.vectors
        self.sums = tir.Bind(sums)
        for begin in range(0, count, self.together):
            self._narrow(tir.Bind(place), list(range(begin, min(count, begin + self.together))))

    def _parameter(self, field: Parameter) -> Expr:
        return self.share.operands["parameters"][int(field)]

    def _narrow(self, place: Expr, batch: list[int]) -> None:
        """Rescales vectors k = pixel * vectors + v of the batch and stores their codes."""
        zero, low, high = (self._parameter(f) for f in (Parameter.ZERO_POINT, Parameter.LOW, Parameter.HIGH))
        fields = (ChannelField.MULTIPLIER, ChannelField.ROUNDING, ChannelField.SHIFT)
        scaled: list[Expr] = []
        for k in batch:
            v = k % self.vectors
            constants = [channel_constants(self.share, self.before.panel, f, v) for f in fields]
            scaled.append(tir.Bind(self._rescaled(k, *constants)))
        scaled += [scaled[-1]] * (self.together - len(scaled))
        codes = tir.Bind(self.code.narrow(scaled, zero, low, high, TILE_LANES, self.dtype))
        for run in self._runs(batch):
            lanes = list(range((run[0] - batch[0]) * TILE_LANES, (run[-1] - batch[0] + 1) * TILE_LANES))
            value = tirx.Shuffle([codes], lanes) if len(lanes) < self.together * TILE_LANES else codes
            pixel, v = divmod(run[0], self.vectors)
            self._store(place + pixel, v, len(run), value)

    def _rescaled(self, k: int, multiplier: Expr, rounding: Expr, shift: Expr) -> Expr:
        """Sums in memory come shifted by half a lane pair for the price of a load."""
        scratch, at = self.share.operands["scratch"], self.sums + k * ROW_BYTES
        vector = f"int32x{TILE_LANES}"
        even, odd = (
            reinterpret(vector, load(scratch, at + shifted, "uint8", ROW_BYTES)) for shifted in (0, 4)
        )
        return self.code.rescale_halves(even, odd, multiplier, rounding, shift, TILE_LANES)

    def _runs(self, batch: list[int]) -> list[list[int]]:
        """The batch cut into runs whose channels are neighbours in memory, all valid or one vector."""
        runs: list[list[int]] = []
        for k in batch:
            v = k % self.vectors
            partial = self.surplus and v == self.vectors - 1
            joins = runs and v > 0 and not partial
            runs[-1].append(k) if joins else runs.append([k])
        return runs

    def _store(self, pixel: Expr, v: int, count: int, value: Expr) -> None:
        output = self.share.operands["output"]
        first = (self.before.panel * self.config.vectors + v) * TILE_LANES
        offset = pixel * self.g.output_pitch + first
        if not self.surplus or v < self.vectors - 1:
            store(output, offset, value, count * TILE_LANES)
            return
        staged = tir.alloc_buffer((TILE_LANES,), self.dtype, scope="local")
        store(staged, 0, value, TILE_LANES)
        done, valid = 0, TILE_LANES - self.surplus
        while done < valid:
            piece = 1 << ((valid - done).bit_length() - 1)
            store(output, offset + done, load(staged, done, self.dtype, piece), piece)
            done += piece
