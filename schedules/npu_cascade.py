"""Two layers as one: what a product makes, some rows and channels at a time, stays in the core until the
depthwise convolution behind it has used it.

The consumer goes through its tiles as it would alone. Where it would load an image, the producer computes it
into that place, one image ahead: so VEC finishes an image while the array is busy with the one before. Rows
that two tiles see are computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from schedules.npu_blocks import blocks_of
from schedules.npu_emit import Emitter
from schedules.npu_image import Images, Tile
from schedules.npu_product import Part, Product, ProductCore, Step, steps_of
from schedules.npu_tiling import Tiling
from sim.isa import Engine


@dataclass(frozen=True, slots=True)
class Cascade:
    """Both have blocks of the same channels. The producer's rows and columns are those that a tile of the
    consumer sees; its images come first in the activation memory, then the consumer's, then results."""

    producer: Tiling
    consumer: Tiling


def emit_cascade(e: Emitter, producer: Product, consumer: Product, steps: int | None = None) -> list[int]:
    """All tiles, or so many steps of each core. Returns how many instructions there were behind each step."""
    cores = e.config.cores
    pairs = [_Pair(e, core, producer, consumer) for core in range(cores)]
    queues = [list(steps_of(consumer, core, cores)) for core in range(cores)]
    ends: list[int] = []
    for turn in range(min(max(map(len, queues)), steps or 1 << 30)):
        for pair, queue in zip(pairs, queues, strict=True):
            pair.prepare(queue[turn : turn + 2])
            if turn < len(queue):
                pair.consumer.step(queue[turn])
        ends.append(len(e.instructions))
    return ends


class _Pair:
    """Of one core."""

    def __init__(self, e: Emitter, core: int, producer: Product, consumer: Product) -> None:
        first, second, pads = producer.tiling, consumer.tiling, e.config.scratchpad
        middle = first.image_slots * first.image_slot_bytes
        results = middle + second.image_slots * second.image_slot_bytes
        weights, half = first.weight_slots * first.weight_slot_bytes, pads.parameter_banks // 2
        makes = _Producer(e, core, producer, Part(0, results, 0, range(half)))
        part = Part(middle, results, weights, range(half, pads.parameter_banks))
        self.consumer = ProductCore(e, core, consumer, part)
        self.consumer.images = _Intermediate(makes, consumer, middle)

    def prepare(self, steps: list[Step]) -> None:
        """Computes the images of the next steps, where they are not there yet; an image that was used longer
        ago gives way."""
        for step in steps:
            self.consumer.images.take(step.tile, *self.consumer.image_channels(step, 0, 1))


class _Producer(ProductCore):
    """Results go where the consumer wants them."""

    def __init__(self, e: Emitter, core: int, p: Product, part: Part) -> None:
        super().__init__(e, core, p, part)
        self.images = _Regions(e, core, p.form, p.tiling, p.image, p.zero_in, part.images)
        self.blocks = {b.first: b for b in blocks_of(p.form, p.tiling)}
        self.words = e.config.scratchpad.accumulator_words // 2 * 2 // p.tiling.accumulators
        self.target = 0

    def make(self, region: Tile, first: int, local: int) -> None:
        """Outputs of one block, in as many parts as the accumulators need."""
        assert isinstance(self.images, _Regions)
        self.images.region = region
        block = self.blocks[first]
        row = region.columns * self.p.form.output.bytes_for(block.count)
        parts = ceil(region.rows / (self.words // (region.columns * block.count)))
        rows = ceil(region.rows / parts)
        for y in range(0, region.rows, rows):
            tile = Tile(region.batch, region.y + y, region.x, min(rows, region.rows - y), region.columns)
            self.target = local + y * row
            self.step(Step(tile, block, (block,)))

    def result(self, step: Step) -> tuple[int, int]:
        return self.target, self.p.form.output.bytes_for(step.block.count)

    def store(self, step: Step) -> None:
        pass


class _Regions(Images):
    """All that a region sees lies together; tiles are rows of it."""

    region: Tile

    def take(self, tile: Tile, begin: int, channels: int) -> int:
        local = super().take(self.region, begin, channels)
        skipped = self.rows(tile).begin - self.rows(self.region).begin
        return local + skipped * self.columns(tile).local * self.pixel_bytes(channels)


class _Intermediate(Images):
    """Computed, not loaded."""

    def __init__(self, producer: _Producer, consumer: Product, base: int) -> None:
        form, tiling = consumer.form, consumer.tiling
        super().__init__(producer.e, producer.core, form, tiling, consumer.image, consumer.zero_in, base)
        self.producer = producer

    def fill(self, engine: Engine, tile: Tile, begin: int, channels: int, local: int) -> None:
        y, x = self.rows(tile), self.columns(tile)
        self.producer.make(Tile(tile.batch, y.begin, x.begin, y.count, x.count), begin, local)
