"""How long each instruction keeps its engine, were it alone: in columns, one formula for each instruction.

MAC. Weights of one fold (a block of output lanes, a position of the kernel, a chunk of reduction lanes) are
loaded into the array while the fold before it is computed, so n folds of s cycles whose weights take w cost
w + (n - 1) * max(s, w) + s. A fold takes one cycle for each output position, or more where the accumulators'
port is narrower than what the array makes of narrow weights.

DMA. A transfer of n bursts of t cycles whose requests take `latency`, of which `outstanding` may be on their
way, ends after latency + n * t where requests suffice to hide the latency, and otherwise in rounds of
latency + t (see `transfer_cycles`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim import compression
from sim.config import NpuConfig
from sim.fields import Column
from sim.footprint import Accesses, accesses, output_lanes
from sim.isa import (
    Depthwise,
    Elementwise,
    Fill,
    Gemm,
    Inflate,
    Load,
    Lookup,
    Memory,
    Pool,
    Requantize,
    Softmax,
    Store,
)
from sim.memories import bank_layout
from sim.resolve import Table, ceil_div, resolve
from sim.stream import Stream

Floats = NDArray[np.float64]
NO_PORT = -1


@dataclass(frozen=True, slots=True)
class Work:
    """What the instructions of a stream cost, an entry each.

    issue: cycles before anything happens; 0 of registers and `Sync`. cycles: then, alone on the engine and
    its port; of a transfer after its latency. port: 0 SRAM, 1 DRAM, -1 none. latency: before the first
    burst. port_cycles: of the port's time. bursts, moved: whole ones, and their bytes. macs: products,
    without those that only fill the array; mac_bits: bits of one operand times those of the other. elements:
    results of VEC. accumulator_words, scratchpad_bytes: read and written, an image once. banks: bit mask.
    """

    issue: Column
    cycles: Floats
    port: Column
    latency: Column
    port_cycles: Floats
    bursts: Column
    moved: Column
    macs: Column
    mac_bits: Column
    elements: Column
    accumulator_words: Column
    scratchpad_bytes: Column
    banks: list[int]
    accesses: Accesses


def work(stream: Stream, config: NpuConfig, core: int = 0) -> Work:
    """Errors: StreamError where a register is not set."""
    n = len(stream)
    found = accesses(stream, config, core)
    words = _sum_by_index(found, found.memory == Memory.ACCUMULATOR, n)
    local = _sum_by_index(found, found.memory < Memory.ACCUMULATOR, n)
    result = Work(
        issue=np.where(np.isin(stream.opcodes, [c.opcode for c in _COSTS]), config.issue_cycles, 0),
        cycles=np.ones(n),
        port=np.full(n, NO_PORT),
        latency=np.zeros(n, np.int64),
        port_cycles=np.zeros(n),
        bursts=np.zeros(n, np.int64),
        moved=np.zeros(n, np.int64),
        macs=np.zeros(n, np.int64),
        mac_bits=np.zeros(n, np.int64),
        elements=np.zeros(n, np.int64),
        accumulator_words=words,
        scratchpad_bytes=local,
        banks=_banks(found, config, n),
        accesses=found,
    )
    for cls, cost in _COSTS.items():
        table = resolve(stream, cls, core)
        if table["index"].size:
            cost(table, config, result)
    return result


def _sum_by_index(found: Accesses, chosen: NDArray[np.bool_], count: int) -> Column:
    sizes = (found.end - found.begin) * chosen
    return np.bincount(found.index, sizes, count).astype(np.int64)


def transfer_cycles(bursts: Column, burst: float, latency: int, outstanding: int) -> Floats:
    """Cycles from the first request to the end of the last of `bursts` bursts of `burst` cycles each.

    Burst i can be requested when burst i - outstanding has ended.
    """
    if outstanding * burst >= latency + burst:
        return np.float64(latency) + bursts * burst
    rounds = (bursts - 1) // outstanding
    rest = bursts - 1 - rounds * outstanding
    return np.float64(latency + burst) * (rounds + 1) + rest * burst


def _transfer(
    t: Table,
    config: NpuConfig,
    out: Work,
    write: bool,
    bursts_of: Callable[[int], Column],
    local: Floats,
    first: Floats | float = 0.0,
) -> None:
    """bursts_of: burst bytes -> bursts; local: the least cycles that the core's side takes, once it has the
    `first` bytes."""
    for number, port in enumerate((config.sram, config.dram)):
        mine = t["dram"] == number
        index = t["index"][mine]
        bursts = bursts_of(port.burst_bytes)[mine]
        latency, outstanding = port.side(write)
        total = transfer_cycles(bursts, port.burst_cycles, latency, outstanding)
        begins = np.broadcast_to(first, local.shape)[mine] / port.bytes_per_cycle
        out.cycles[index] = np.maximum(total - latency, begins + local[mine])
        out.port[index], out.latency[index] = number, latency
        out.port_cycles[index] = bursts * port.burst_cycles
        out.bursts[index] = bursts
        out.moved[index] = bursts * port.burst_bytes


def _block(t: Table, config: NpuConfig, out: Work, write: bool) -> None:
    rows = t["planes"] * t["rows"]
    element, step = t["local_strides.element_bytes"], t["local_strides.element"]
    scattered = (rows * (t["row_bytes"] // element)) / config.dma.scatter_elements
    local = np.where(step == element, 0.0, scattered)
    _transfer(t, config, out, write, lambda burst: rows * ceil_div(t["row_bytes"], burst), local)


def _load(t: Table, config: NpuConfig, out: Work) -> None:
    _block(t, config, out, False)


def _store(t: Table, config: NpuConfig, out: Work) -> None:
    _block(t, config, out, True)


def _inflate(t: Table, config: NpuConfig, out: Work) -> None:
    """Low bits come first: a block's first number waits for all of its block, but for the unary parts of two
    bits or so a number."""
    raw, packed = t["raw_bytes"], t["packed_bytes"]
    local = ceil_div(raw, config.dma.inflate_bytes).astype(np.float64)
    block = np.minimum(raw, compression.BLOCK)
    first = np.where(packed < raw, np.maximum(0, packed * block / np.maximum(raw, 1) - block / 4), 0)
    _transfer(t, config, out, False, lambda burst: ceil_div(packed, burst), local, first)


def _fill(t: Table, config: NpuConfig, out: Work) -> None:
    element, step = t["local_strides.element_bytes"], t["local_strides.element"]
    contiguous = ceil_div(t["row_bytes"], config.dma.fill_bytes)
    scattered = ceil_div(t["row_bytes"] // element, config.dma.scatter_elements)
    out.cycles[t["index"]] = t["planes"] * t["rows"] * np.where(step == element, contiguous, scattered)


def _folds(stream: Column, first: Column, load: Column, count: Column) -> Column:
    """`count` folds of `stream` cycles, whose weights take `load`; `first` is exposed before them."""
    return first + (count - 1) * np.maximum(stream, load) + stream


def _gemm(t: Table, config: NpuConfig, out: Work) -> None:
    mac, bits = config.mac, t["operands.wgt_bits"]
    reduction = mac.rows * 8 // t["operands.act_bits"]
    lanes = output_lanes(t, config)
    positions = t["rows"] * t["columns"]
    taps = t["window.kernel_y"] * t["window.kernel_x"]
    channels = t["operands.channels"]
    whole, rest = channels // reduction, channels % reduction
    total = np.zeros(len(taps), np.int64)
    previous = np.zeros_like(total)  # cycles of the fold that hides the next block's first weights
    last = t["outputs"] % lanes
    for blocks, outputs in ((t["outputs"] // lanes, lanes), (np.minimum(last, 1), last)):
        row = ceil_div(outputs * bits, 8)
        cycles = positions * np.maximum(1, ceil_div(outputs * 32, mac.accumulator_port_bits))
        load_whole = ceil_div(reduction * row, mac.weight_port_bytes)
        load_rest = ceil_div(rest * row, mac.weight_port_bytes)
        first = np.where(whole > 0, load_whole, load_rest)
        # Every fold of a block but its first hides its weights behind a fold of the same block.
        inner = taps * whole * np.maximum(cycles, load_whole)
        inner += taps * (rest > 0) * np.maximum(cycles, load_rest) - np.maximum(cycles, first)
        some = blocks > 0
        chained = (blocks - 1) * (np.maximum(cycles, first) + inner) + inner
        total += np.where(some, np.maximum(first, previous) + chained, 0)
        previous = np.where(some, cycles, previous)
    out.cycles[t["index"]] = total + previous + mac.pipeline_cycles
    _count(t, out, positions * taps * channels * t["outputs"])


def _depthwise(t: Table, config: NpuConfig, out: Work) -> None:
    mac = config.mac
    width = np.maximum(t["operands.act_bits"], t["operands.wgt_bits"])
    lanes = np.maximum(1, mac.depthwise_channels * 8 // width)
    taps = t["window.kernel_y"] * t["window.kernel_x"]
    positions = t["rows"] * t["columns"]
    groups = ceil_div(t["operands.channels"], lanes)
    steps = positions * ceil_div(taps, mac.depthwise_taps)
    out.cycles[t["index"]] = _folds(steps, taps, taps, groups) + mac.pipeline_cycles
    _count(t, out, positions * taps * t["operands.channels"])


def _count(t: Table, out: Work, macs: Column) -> None:
    out.macs[t["index"]] = macs
    out.mac_bits[t["index"]] = t["operands.act_bits"] * t["operands.wgt_bits"]


def _vector(t: Table, config: NpuConfig, out: Work, rows: Column, count: Column, each: Column | int) -> None:
    groups = rows * ceil_div(count, config.vec.lanes)
    out.cycles[t["index"]] = groups * each + config.vec.pipeline_cycles
    out.elements[t["index"]] = rows * count


def _requantize(t: Table, config: NpuConfig, out: Work) -> None:
    vec = config.vec
    each = np.where(
        t["output.lookup"] == 1, max(vec.requantize_cycles, vec.lookup_cycles), vec.requantize_cycles
    )
    _vector(t, config, out, t["pixels"], t["channels"], each)


def _elementwise(t: Table, config: NpuConfig, out: Work) -> None:
    _vector(t, config, out, t["rows"], t["count"], config.vec.elementwise_cycles)


def _pool(t: Table, config: NpuConfig, out: Work) -> None:
    taps = t["window.kernel_y"] * t["window.kernel_x"]
    _vector(t, config, out, t["rows"] * t["columns"], t["channels"], taps * config.vec.pool_cycles)


def _lookup(t: Table, config: NpuConfig, out: Work) -> None:
    _vector(t, config, out, t["rows"], t["count"], config.vec.lookup_cycles)


def _softmax(t: Table, config: NpuConfig, out: Work) -> None:
    _vector(t, config, out, t["rows"], t["count"], config.vec.softmax_cycles)


_COSTS = {
    Load: _load,
    Store: _store,
    Fill: _fill,
    Inflate: _inflate,
    Gemm: _gemm,
    Depthwise: _depthwise,
    Requantize: _requantize,
    Elementwise: _elementwise,
    Pool: _pool,
    Lookup: _lookup,
    Softmax: _softmax,
}


def _banks(found: Accesses, config: NpuConfig, count: int) -> list[int]:
    """Of each instruction, the mask of the banks that it keeps while it runs."""
    layout = bank_layout(config)
    local = found.memory <= Memory.ACCUMULATOR
    size, bit = (np.array([layout[m][i] for m in list(Memory)[:5]]) for i in (0, 1))
    memory, index = found.memory[local], found.index[local]
    first = bit[memory] + found.begin[local] // size[memory]
    last = bit[memory] + (found.end[local] - 1) // size[memory]
    masks = np.zeros(count, np.int64 if last.max(initial=0) < 62 else object)
    one = np.ones(1, masks.dtype)
    if index.size:
        begins = np.flatnonzero(np.diff(index, prepend=-1))  # accesses stand in the order of the stream
        masks[index[begins]] = np.bitwise_or.reduceat((one << (last + 1)) - (one << first), begins)
    return masks.tolist()
