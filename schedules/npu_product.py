"""Instructions of products: convolution, dense and depthwise layers, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compiler.loops.form import Convolution
from schedules.npu_blocks import Block, Key, blocks_of_core, groups_of, pieces_of, share, units_of
from schedules.npu_emit import Address, Blob, Emitter, Run, load, load_blob, store
from schedules.npu_image import Images, Tile
from schedules.npu_tiling import Tiling
from sim.config import PARAMETER_BYTES
from sim.isa import Depthwise, Engine, Gemm, Memory, Output, Requantize


@dataclass(frozen=True, slots=True)
class Product:
    """A layer with its places. weights: of each unit of npu_blocks; parameters: of all channels. zero_in,
    zero_out, low, high: of the codes."""

    form: Convolution
    tiling: Tiling
    image: Address
    result: Address
    weights: Mapping[Key, Blob]
    parameters: Address
    zero_in: int
    zero_out: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Part:
    """What of a core's memories a layer uses, where it shares them: first bytes of its images, of its
    results, and of its weights; its banks of parameters."""

    images: int
    results: int
    weights: int
    parameter_banks: range


@dataclass(frozen=True, slots=True)
class Step:
    """A block of a tile's channels. stored: the block's group, which is stored behind its last block."""

    tile: Tile
    block: Block
    stored: tuple[Block, ...]


def emit_product(e: Emitter, p: Product, steps: int | None = None) -> list[int]:
    """All tiles, or so many steps of each core. Returns how many instructions there were behind each step."""
    cores = e.config.cores
    shares = [ProductCore(e, core, p) for core in range(cores)]
    queues = [list(steps_of(p, core, cores)) for core in range(cores)]
    ends: list[int] = []
    for turn in range(min(max(map(len, queues)), steps or 1 << 30)):
        for core, queue in zip(shares, queues, strict=True):
            if turn < len(queue):
                core.step(queue[turn])
        ends.append(len(e.instructions))
    return ends


def count_steps(p: Product, cores: int) -> int:
    """Of the core with most of them."""
    return max(sum(1 for _ in steps_of(p, core, cores)) for core in range(cores))


def steps_of(p: Product, core: int, cores: int) -> Iterator[Step]:
    """One core's, in order."""
    f, t = p.form, p.tiling
    tiles = [
        Tile(n, y, x, min(t.rows, f.out_height - y), min(t.columns, f.out_width - x))
        for n in range(f.batch)
        for y in range(0, f.out_height, t.rows)
        for x in range(0, f.out_width, t.columns)
    ]
    if not t.blocks_shared:
        tiles = share(tiles, core, cores)
    groups = [tuple(g) for g in groups_of(blocks_of_core(f, t, core, cores), t.stored)]
    order = (
        [(tile, group) for group in groups for tile in tiles]
        if t.weights_first
        else [(tile, group) for tile in tiles for group in groups]
    )
    for tile, group in order:
        yield from (Step(tile, block, group) for block in group)


class ProductCore:
    """One core's share of a layer, with what its scratchpads hold."""

    def __init__(self, e: Emitter, core: int, p: Product, part: Part | None = None) -> None:
        """part: None where the layer has all memories for itself."""
        self.e, self.core, self.p = e, core, p
        f, t, pads = p.form, p.tiling, e.config.scratchpad
        if part is None:
            part = Part(0, t.image_slots * t.image_slot_bytes, 0, range(pads.parameter_banks))
        self.images = Images(e, core, f, t, p.image, p.zero_in, part.images)
        self.results = e.slots(core, Memory.ACTIVATION, part.results, t.result_slot_bytes, t.result_slots)
        self.weights = e.slots(core, Memory.WEIGHT, part.weights, t.weight_slot_bytes, t.weight_slots)
        words = pads.accumulator_words // 2 * 2 // t.accumulators
        self.accumulators = e.slots(core, Memory.ACCUMULATOR, 0, words, t.accumulators)
        bank, banks = pads.parameter_bytes // pads.parameter_banks, part.parameter_banks
        self.parameters = e.slots(core, Memory.PARAMETER, banks.start * bank, bank, len(banks))
        self.fetched = 0  # units of weights
        blocks = blocks_of_core(f, t, core, e.config.cores)
        self.units = {key: unit for unit in units_of(f, t, blocks, e.config) for key in unit.offsets}
        together = groups_of(blocks, bank // PARAMETER_BYTES)
        self.groups = {b.first: (g[0].first, g[-1].first + g[-1].count) for g in together for b in g}

    def step(self, step: Step) -> None:
        accumulators, _ = self.accumulators.take(step)
        for first, count in pieces_of(self.p.form, self.p.tiling):
            self._product(step, first, count, accumulators)
        self._requantize(step, accumulators)
        if step.block is step.stored[-1]:
            self.store(step)

    def _product(self, step: Step, first: int, count: int, accumulators: int) -> None:
        f, e, core, tile, block = self.p.form, self.e, self.core, step.tile, step.block
        unit = self.units[block.first, first]
        weights, fresh = self.weights.take(unit.key)
        if fresh:
            engine = (Engine.FETCH, Engine.LOAD)[self.fetched % self.p.tiling.weight_engines]
            load_blob(e, core, self.p.weights[unit.key], Memory.WEIGHT, weights, engine)
            self.fetched += 1
        begin, held = self.image_channels(step, first, count)
        image = self.images.take(tile, begin, held)
        skipped = (block.input if f.depthwise else block.input + first) - begin
        e.set(core, self.images.window(tile))
        e.set(core, self.images.operands(tile, held, block.count if f.depthwise else count))
        instruction = Gemm(
            accumulate=first > 0,
            act=image + f.input.bytes_for(skipped),
            wgt=weights + unit.offsets[block.first, first],
            acc=accumulators,
            rows=tile.rows,
            columns=tile.columns,
            outputs=block.count,
        )
        e.add(core, _as_depthwise(instruction) if f.depthwise else instruction)

    def image_channels(self, step: Step, first: int, count: int) -> tuple[int, int]:
        """Begin and number of the image's channels that are loaded for a product."""
        f, whole, block = self.p.form, self.p.tiling.whole_image, step.block
        if not f.depthwise:
            return (block.input, f.in_channels // f.groups) if whole else (block.input + first, count)
        group = step.stored if whole else (block,)
        return group[0].input, group[-1].input + group[-1].count - group[0].input

    def _requantize(self, step: Step, accumulators: int) -> None:
        """From accumulators to codes in the result."""
        p, f, e, core, tile, block = self.p, self.p.form, self.e, self.core, step.tile, step.block
        begin, end = self.groups[block.first]
        parameters, fresh = self.parameters.take(begin)
        if fresh:
            source = p.parameters + begin * PARAMETER_BYTES
            size = (end - begin) * PARAMETER_BYTES
            engine = Engine.FETCH if p.tiling.weight_engines == 1 else Engine.LOAD
            load(e, core, source, Memory.PARAMETER, parameters, [], size, engine)
        local, row = self.result(step)
        output = Output(
            lookup=False,
            out_bits=f.output.bits,
            zero_point=p.zero_out,
            low=p.low,
            high=p.high,
            stride=row,
            table=0,
        )
        e.set(core, output)
        requantize = Requantize(
            per_tensor=False,
            acc=accumulators,
            dst=local + f.output.bytes_for(block.first - step.stored[0].first),
            param=parameters + (block.first - begin) * PARAMETER_BYTES,
            pixels=tile.rows * tile.columns,
            channels=block.count,
        )
        e.add(core, requantize)

    def result(self, step: Step) -> tuple[int, int]:
        """Where the group's results lie, and the bytes of a pixel there."""
        first, last = step.stored[0], step.stored[-1]
        local, _ = self.results.take((step.tile, first.first))
        return local, self.p.form.output.bytes_for(last.first + last.count - first.first)

    def store(self, step: Step) -> None:
        p, f, tile, of = self.p, self.p.form, step.tile, self.p.form.output
        local, row = self.result(step)
        pitch = of.bytes_for(f.output_pitch or f.out_channels)
        pixel = ((tile.batch * f.out_height + tile.y) * f.out_width + tile.x) * pitch
        runs = [Run(tile.rows, f.out_width * pitch, tile.columns * row), Run(tile.columns, pitch, row)]
        target = p.result + (pixel + of.bytes_for(step.stored[0].first))
        store(self.e, self.core, local, target, runs, row)


def _as_depthwise(i: Gemm) -> Depthwise:
    """Of as many channels as `Operands` says."""
    return Depthwise(accumulate=False, act=i.act, wgt=i.wgt, acc=i.acc, rows=i.rows, columns=i.columns)
