"""Random programs of each kind of work, as a compiler would write them: tiles, double buffers, tokens.

For property tests and for comparing the timing model with the hardware description; a seed gives one program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compiler.numerics.element import Array
from sim.config import NpuConfig
from sim.functional.core import External
from sim.isa import Instruction
from sim.parameters import pack_parameters
from sim.programs.convolutions import conv, depthwise, gemm, low_bits
from sim.programs.transfers import compressed_weights, dma, inflate, transfers
from sim.programs.vectors import pool, softmax, vec
from sim.programs.writer import EXPONENTIALS_AT, PARAMETERS_AT, Writer
from sim.stream import Program
from sim.tokens import insert_tokens

_CONTENTS = 1 << 16


@dataclass(frozen=True, slots=True)
class RandomProgram:
    """A program and what SRAM and DRAM hold before it (the rest is zeros)."""

    name: str
    program: Program
    sram: Array
    dram: Array

    def external(self, config: NpuConfig) -> External:
        return External.of(config, self.sram, self.dram)


KINDS: dict[str, Callable[[Writer], None]] = {
    "gemm": gemm,
    "conv": conv,
    "depthwise": depthwise,
    "low_bits": low_bits,
    "vec": vec,
    "pool": pool,
    "softmax": softmax,
    "inflate": inflate,
    "dma": dma,
    "transfers": transfers,
}


def instructions_of(kind: str, seed: int, config: NpuConfig) -> list[Instruction]:
    """Without tokens and halt, for one core."""
    writer = Writer(config, np.random.default_rng([seed, sorted(KINDS).index(kind)]))
    KINDS[kind](writer)
    return writer.out


def _exponentials() -> Array:
    """Tables of a 16-bit softmax in Q30, for a scale of 2**-14; 8-bit ones use the first."""
    steps = np.arange(256) / (1 << 14)
    return np.floor(np.exp(-np.concatenate([256 * steps, steps])) * (1 << 30)).astype("<i4")


def random_program(kind: str, seed: int, config: NpuConfig) -> RandomProgram:
    program = insert_tokens([(0, i) for i in instructions_of(kind, seed, config)], config).program
    rng = np.random.default_rng([seed, 1])
    sram, dram = (rng.integers(0, 256, _CONTENTS, np.uint8) for _ in range(2))
    fill_constants(rng, dram)
    return RandomProgram(f"{kind}-{seed}", program, sram, dram)


def fill_constants(rng: np.random.Generator, dram: Array) -> None:
    """Parameters of 512 channels, tables of exponentials and compressed weights, where programs look.

    Every fourth channel takes any bias, multiplier and shift that there is; the others keep results apart.
    """
    channels = 512
    usual = np.arange(channels) % 4 > 0
    parameters = pack_parameters(
        np.where(
            usual, rng.integers(-(1 << 12), 1 << 12, channels), rng.integers(-(1 << 31), 1 << 31, channels)
        ),
        rng.integers(1 << 30, 1 << 31, channels),
        np.where(usual, rng.integers(34, 46, channels), rng.integers(1, 63, channels)),
    )
    dram[PARAMETERS_AT : PARAMETERS_AT + parameters.size] = parameters
    dram[EXPONENTIALS_AT : EXPONENTIALS_AT + 2048] = _exponentials().view(np.uint8)
    for at, packed in compressed_weights():
        dram[at : at + packed.size] = packed
