"""A proxy for the silicon of an NPU: good for comparing configurations, no square millimetres.

Unit: one multiplier of 8 x 8 bits with its 32-bit adder. Areas of 45 nm, in square micrometres:

- 8-bit multiplier 282, 32-bit multiplier 3495, 32-bit adder 137: W. J. Dally, "High-Performance Hardware for
  Machine Learning", NIPS tutorial 2015 (synthesized, TSMC 45 nm).
- flip-flop 4.522: DFF_X1 of the NanGate 45 nm open cell library.
- SRAM cell 0.346: K. Mistry et al., IEDM 2007. Twice of that a bit, for decoders, sense amplifiers and wires
  of small memories: our guess, as macros of a few KB are about half cells. Accumulators are read and written
  in the same cycle: two ports, twice the cell.

Left out: control, engines of loads and stores, wires between parts, and the external memories.
"""

from __future__ import annotations

from sim.config import NpuConfig

_MULTIPLIER_8, _MULTIPLIER_32, _ADDER_32, _FLIP_FLOP = 282.0, 3495.0, 137.0, 4.522
_SRAM_BIT = 2 * 0.346
UNIT = _MULTIPLIER_8 + _ADDER_32
# Two weights of 8 bits (one at work, one being loaded) and the activation that passes.
_REGISTER_BITS = 24
FORMULA = (
    "cores x (rows x cols x (M8 + A32 + 24 FF) + lanes x (M32 + A32) + 8 bits x scratchpad bytes "
    "+ 2 x 32 bits x accumulator words) / (M8 + A32)"
)


def area(config: NpuConfig) -> float:
    """In multipliers of 8 x 8 bits with their adders: `FORMULA`."""
    mac, pads = config.mac, config.scratchpad
    cell = _MULTIPLIER_8 + _ADDER_32 + _REGISTER_BITS * _FLIP_FLOP
    array = mac.rows * mac.columns * cell
    lanes = config.vec.lanes * (_MULTIPLIER_32 + _ADDER_32)
    single = 8 * (pads.total_bytes - 4 * pads.accumulator_words)
    double = 2 * 32 * pads.accumulator_words
    return config.cores * (array + lanes + (single + double) * _SRAM_BIT) / UNIT
