"""Sizes of all memories, and the banks of those inside a core."""

from __future__ import annotations

from sim.config import NpuConfig
from sim.isa import Memory

LOCAL = tuple(m for m in Memory if m <= Memory.ACCUMULATOR)


def memory_sizes(config: NpuConfig) -> dict[Memory, int]:
    """Bytes (words of accumulators) of each memory."""
    pads = config.scratchpad
    return {
        Memory.ACTIVATION: pads.activation_bytes,
        Memory.WEIGHT: pads.weight_bytes,
        Memory.PARAMETER: pads.parameter_bytes,
        Memory.TABLE: pads.table_bytes,
        Memory.ACCUMULATOR: pads.accumulator_words,
        Memory.SRAM: config.sram.size_bytes,
        Memory.DRAM: config.dram.size_bytes,
    }


def bank_layout(config: NpuConfig) -> dict[Memory, tuple[int, int]]:
    """Bytes (words) of a bank of each memory inside a core, and the bit of its first bank in a mask."""
    pads = config.scratchpad
    sizes = {
        Memory.ACTIVATION: (pads.activation_bytes, pads.activation_banks),
        Memory.WEIGHT: (pads.weight_bytes, pads.weight_banks),
        Memory.PARAMETER: (pads.parameter_bytes, pads.parameter_banks),
        Memory.TABLE: (pads.table_bytes, 1),
        Memory.ACCUMULATOR: (pads.accumulator_words, 2),
    }
    layout: dict[Memory, tuple[int, int]] = {}
    bit = 0
    for memory, (size, banks) in sizes.items():
        layout[memory] = (size // banks, bit)
        bit += banks
    return layout
