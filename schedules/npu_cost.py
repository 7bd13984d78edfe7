"""An analytic model of tilings, in columns: what each engine does for the whole layer.

Engines overlap, so the busiest one counts; where a memory has one slot only, two engines wait for each other
and their times add up. It is exact enough to tell which tilings are worth a trial on the simulator
(schedules/npu_search.py), no more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedules.npu_space import Space
from schedules.npu_tiling import Shape
from sim.config import PARAMETER_BYTES, NpuConfig, Port
from sim.fields import Column

Floats = NDArray[np.float64]


def costs(s: Space, shape: Shape, config: NpuConfig) -> tuple[Floats, Floats]:
    """Cycles of the layer, and of its busiest engine or port alone."""
    return _Model(s, shape, config).cycles()


def _ceil_div(a: Column, b: Column | int) -> Column:
    return -(-a // b)


class _Model:
    """Counts are those of one core."""

    def __init__(self, s: Space, shape: Shape, config: NpuConfig) -> None:
        self.s, self.shape, self.config, self.form = s, shape, config, shape.form
        f, cores = shape.form, config.cores
        self.all_tiles = (
            f.batch
            * _ceil_div(s.rows * 0 + f.out_height, s.rows)
            * _ceil_div(s.rows * 0 + f.out_width, s.columns)
        )
        blocks = shape.groups * _ceil_div(s.rows * 0 + shape.group_outputs, s.outputs)
        self.tiles = np.where(s.blocks_shared == 1, self.all_tiles, _ceil_div(self.all_tiles, cores))
        self.blocks = np.where(s.blocks_shared == 1, _ceil_div(blocks, cores), blocks)
        self.pieces = (
            np.ones_like(s.rows) if f.depthwise else _ceil_div(s.rows * 0 + shape.group_inputs, s.reduction)
        )
        self.of_store = np.minimum(np.maximum(1, s.stored // s.outputs), self.blocks)  # blocks
        self.stores = _ceil_div(self.blocks, self.of_store)  # of a tile
        self.pixels = s.rows * s.columns

    def cycles(self) -> tuple[Floats, Floats]:
        s = self.s
        image, image_loads = self._image(), self._image_loads()
        weights, weight_loads = self._weights()
        product, vector, store = self._product(), self._vector(), self._store()
        steps = self.tiles * self.blocks
        loading, computing = image * image_loads, product * steps * self.pieces
        finishing, storing = vector * steps, store * self.tiles * self.stores
        moving = self._moving(loading, weights * weight_loads, self._parameters())
        ports = self._ports(image_loads, weight_loads)
        busiest = np.max([moving, computing, finishing, storing, ports], axis=0)
        waiting = np.maximum(image, weights) + product + vector + store
        waiting = waiting + self._image_waits(loading, computing, image_loads)
        waiting = waiting + self._weight_waits(weights * weight_loads, computing, weight_loads)
        waiting = waiting + np.where(s.accumulators == 1, finishing, 0)
        waiting = waiting + np.where(s.result_slots == 1, np.minimum(finishing, storing), 0)
        # What waits for a place holds up what comes behind it on its engine.
        mixed = (s.image_engines == 2) & (weight_loads > s.weight_slots)
        mixed |= (s.weight_engines == 2) & (image_loads > s.image_slots)
        waiting = waiting + np.where(mixed, np.minimum(loading, weights * weight_loads), 0.0)
        return busiest + waiting, busiest

    def _moving(self, images: Floats, weights: Floats, parameters: Floats) -> Floats:
        """The busier one of LOAD and FETCH."""
        s, fetching = self.s, weights + parameters
        both = np.maximum(images + parameters + weights / 2, weights / 2)
        found = np.where(s.weight_engines == 2, both, np.maximum(images, fetching))
        return np.where(s.image_engines == 2, np.maximum(images / 2, fetching + images / 2), found)

    def _image_waits(self, loading: Floats, computing: Floats, loads: Column) -> Floats:
        """Where all slots are in use until a tile's last product, the next tile's image waits for that."""
        s = self.s
        held = np.where(s.whole_image == 1, 1, self.pieces)
        used = np.where((held <= s.image_slots) & (self.blocks > 1), held, 1)
        return np.where((used == s.image_slots) & (loads > used), np.minimum(loading, computing), 0.0)

    def _weight_waits(self, fetching: Floats, computing: Floats, loads: Column) -> Floats:
        """Weights that all tiles of stored channels use keep their slots until the last of these tiles: what
        does not find a free slot meanwhile comes when no product can run."""
        s = self.s
        kept = (s.weights_first == 1) & (self.units <= s.weight_slots) & (self.tiles > 1)
        used = np.where(kept, self.units, 1)
        apart = np.clip(1 - (s.weight_slots - used) / used, 0, 1)
        last = np.where(kept, computing / self.tiles, 0.0)
        waits = np.minimum(fetching, computing) * apart - last
        return np.where(loads > s.weight_slots, np.maximum(waits, 0.0), 0.0)

    def _image(self) -> Floats:
        """Of one load."""
        s, f = self.s, self.form
        times = np.where(s.fold == 2, f.kernel_height, 1)
        pixel = s.pixel_bytes // times
        whole = pixel == f.input.bytes_for(f.input_pitch or f.in_channels)
        width = np.minimum(s.width, f.in_width)
        # Whole pixels lie one behind the other; whole rows of them do too.
        merged = whole & (width == f.in_width) & (s.fold == 0)
        rows = np.where(merged, 1, np.where(whole, s.height * times, s.height * times * width))
        row = np.where(merged, s.height * width * pixel, np.where(whole, width * pixel, pixel))
        port = self._port(self.shape.image_dram)
        self.image_bursts = rows * _ceil_div(row, port.burst_bytes)
        channels = pixel // f.input.dtype.itemsize
        elements = s.height * times * width * channels / self.config.dma.scatter_elements
        return np.maximum(_moved(self.image_bursts, port, False), np.where(s.fold == 2, elements, 0.0))

    def _image_loads(self) -> Column:
        s, f = self.s, self.form
        if f.depthwise:
            return self.tiles * np.where(s.whole_image == 1, self.stores, self.blocks)
        groups = np.minimum(self.shape.groups, self.blocks)
        held = np.where(s.whole_image == 1, 1, self.pieces)
        every = self.tiles * held * groups  # once for each tile
        stays = (held * groups <= s.image_slots) | (self.blocks == groups)
        in_order = np.where(stays, every, self.tiles * self.blocks * held)
        visits = np.where(held <= s.image_slots, self.stores, self.blocks)
        first = np.where(every <= s.image_slots, every, self.tiles * held * visits)
        return np.where(s.weights_first == 1, first, in_order)

    def _weights(self) -> tuple[Floats, Column]:
        """Of one load, and their number."""
        s, port = self.s, self._port(self.shape.constants_dram)
        items = self.blocks * self.pieces
        held = np.maximum(1, s.weight_slot_bytes // np.maximum(1, s.weight_bytes))
        self.units = _ceil_div(self.of_store * self.pieces, held)  # of the channels stored together
        units = np.where(s.weights_first == 1, self.stores * self.units, _ceil_div(items, held))
        visits = np.where((s.weights_first == 1) & (self.units <= s.weight_slots), 1, self.tiles)
        loads = units * np.where(units <= s.weight_slots, 1, visits)
        size = items * s.weight_bytes / units * self.shape.weight_ratio
        self.weight_bursts = np.ceil(size / port.burst_bytes)
        inflating = items * s.weight_bytes / units / self.config.dma.inflate_bytes
        packed = self.shape.weight_ratio < 1
        once = np.maximum(_moved(self.weight_bursts, port, False), inflating if packed else 0.0)
        # What is fetched again may come from DRAM again: its copy in SRAM has made place for others.
        again = _moved(np.ceil(size / self.config.dram.burst_bytes), self.config.dram, False)
        return (once * units + np.maximum(once, again) * (loads - units)) / loads, loads

    def _parameters(self) -> Floats:
        """All loads of parameters."""
        s, pads, port = self.s, self.config.scratchpad, self._port(self.shape.constants_dram)
        held = np.maximum(1, pads.parameter_bytes // pads.parameter_banks // PARAMETER_BYTES // s.outputs)
        loads = _ceil_div(self.blocks, held)
        again = np.where((loads <= pads.parameter_banks) | (s.weights_first == 1), 1, self.tiles)
        bursts = np.ceil(np.minimum(held, self.blocks) * s.outputs * PARAMETER_BYTES / port.burst_bytes)
        self.parameter_bursts = bursts * loads * again
        return _moved(bursts, port, False) * loads * again

    def _product(self) -> Floats:
        """Of one instruction of MAC."""
        s, f, mac = self.s, self.form, self.config.mac
        if f.depthwise:
            lanes = mac.depthwise_lanes(f.input.bits, f.weight.bits)
            taps = f.kernel_height * f.kernel_width
            steps = np.maximum(self.pixels * -(-taps // mac.depthwise_taps), taps)
            return (_ceil_div(s.outputs, lanes) * steps + taps + mac.pipeline_cycles + 2).astype(np.float64)
        lanes = mac.output_lanes(f.input.bits, f.weight.bits)
        reduction = mac.reduction_lanes(f.input.bits)
        width = np.minimum(lanes, s.outputs)
        cycles = self.pixels * np.maximum(1, _ceil_div(width * 32, mac.accumulator_port_bits))
        row = _ceil_div(width * f.weight.bits, 8)
        fill = _ceil_div(np.minimum(reduction, s.channels) * row, mac.weight_port_bytes)
        folds = _ceil_div(s.outputs, lanes) * s.taps * _ceil_div(s.channels, reduction)
        return (folds * np.maximum(cycles, fill) + fill + mac.pipeline_cycles + 2).astype(np.float64)

    def _vector(self) -> Floats:
        vector = self.config.vec
        groups = self.pixels * _ceil_div(self.s.outputs, vector.lanes) * vector.requantize_cycles
        return (groups + vector.pipeline_cycles + 2).astype(np.float64)

    def _store(self) -> Floats:
        """Of one store."""
        s, f = self.s, self.form
        channels = np.minimum(self.of_store * s.outputs, f.out_channels)
        pixel = _ceil_div(channels * f.output.bits, 8)
        whole = channels == (f.output_pitch or f.out_channels)
        merged = whole & (s.columns == f.out_width)
        rows = np.where(merged, 1, np.where(whole, s.rows, self.pixels))
        row = np.where(merged, self.pixels * pixel, np.where(whole, s.columns * pixel, pixel))
        port = self._port(self.shape.result_dram)
        self.store_bursts = rows * _ceil_div(row, port.burst_bytes)
        return _moved(self.store_bursts, port, True)

    def _ports(self, image_loads: Column, weight_loads: Column) -> Floats:
        """The busier port, all cores together."""
        cycles = [np.zeros(len(self.s)), np.zeros(len(self.s))]
        sides = self.shape.image_dram, self.shape.result_dram, self.shape.constants_dram
        cycles[sides[0]] += self.image_bursts * image_loads * self._port(sides[0]).burst_cycles
        stores = self.store_bursts * self.tiles * self.stores
        cycles[sides[1]] += stores * self._port(sides[1]).burst_cycles
        constants = self.weight_bursts * weight_loads + self.parameter_bursts
        cycles[sides[2]] += constants * self._port(sides[2]).burst_cycles
        cores = np.where(
            self.s.blocks_shared == 1, self.config.cores, np.minimum(self.config.cores, self.all_tiles)
        )
        return np.maximum(*cycles) * cores

    def _port(self, dram: bool) -> Port:
        return self.config.dram if dram else self.config.sram


def _moved(bursts: Column | Floats, port: Port, write: bool) -> Floats:
    """Cycles of one transfer, alone (see sim.durations.transfer_cycles), with its issue."""
    latency = port.write_latency_cycles if write else port.read_latency_cycles
    outstanding = port.write_outstanding if write else port.read_outstanding
    burst, count = port.burst_cycles, bursts.astype(np.float64)
    if outstanding * burst >= latency + burst:
        return 2 + latency + count * burst
    rounds = (count - 1) // outstanding
    rest: Floats = count - 1 - rounds * outstanding
    return 2 + (latency + burst) * (rounds + 1) + rest * burst
