"""Sums of two tensors of 8-bit codes on x86: both products of an element by one multiplication of pairs.

VPMADDWD multiplies pairs of 16-bit words and adds the two products; VPDPWSSD adds the accumulator as well.
Codes are unpacked to such pairs (a, b). Factors have more than 16 bits and are cut in two:
    a * Ma + b * Mb = (pair . high) * 2**15 + pair . low,   M = high * 2**15 + low, 0 <= low < 2**15.
Zero points and one half go into one constant. Sums wrap at 32 bits, which is exact, since the last one fits.
Unpacking leaves elements in an order of 128-bit parts that the saturating packs undo.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import ceil, prod

import numpy as np

from compiler.loops.form import Form, LoopForm, Role
from compiler.loops.sums import SumParameter, is_dense_sum
from compiler.lowering.kernel import structural_digest
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array

LOW_BITS = 15
# Elements of a tile: as of other element-wise kernels, some five microseconds' work.
_TILE_ELEMENTS = 1 << 15


class SumConstant(IntEnum):
    """Places in the operand `parameters` as the kernel wants it: int32. Pairs hold the
    factor of a in their lower half."""

    LOW_PAIR = 0
    HIGH_PAIR = 1
    ADDEND = 2  # one half, less what zero points and offsets of the codes add
    SHIFT = 3
    ZERO_POINT = 4  # of stored codes
    LOW = 5
    HIGH = 6


@dataclass(frozen=True, slots=True)
class SumsConfig:
    """blocks: of `SumsPlan.block` elements, in a tile."""

    blocks: int


@dataclass(frozen=True)
class SumsPlan:
    """A sum on a machine; a KernelPlan."""

    form: LoopForm
    machine: CpuMachine
    config: SumsConfig

    @property
    def symbol(self) -> str:
        digest = structural_digest(self.form, self.machine, self.config)
        return f"qs8_sum_{self.block}_{self.machine.name}_{digest[:8]}"

    @property
    def block(self) -> int:
        """Elements that are computed together: a register of codes."""
        return block_of(self.machine)

    @property
    def elements(self) -> int:
        return _elements(self.form)

    @property
    def blocks(self) -> int:
        return self.elements // self.block

    @property
    def operands(self) -> tuple[str, ...]:
        return ("a", "b", "parameters", "output")

    @property
    def tiles(self) -> int:
        return ceil(self.blocks / self.config.blocks)

    @property
    def scratch_bytes(self) -> int:
        return 0

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        return {"parameters": packed_constants(constants["parameters"], self.machine.activation_offset)}

    def build(self) -> bytes:
        from compiler.lowering.build import build_object
        from schedules.sums_tir import sums_function

        return build_object({self.symbol: sums_function(self)}, dict(self.machine.target))


def takes_sum(form: Form, machine: CpuMachine) -> bool:
    """Whether the template computes a form on a machine."""
    if not isinstance(form, LoopForm) or not machine.is_x86 or machine.vector_bits < 256:
        return False
    if machine.activation_offset != 128 or not is_dense_sum(form) or form.buffer("a").role is not Role.INPUT:
        return False
    return _elements(form) % block_of(machine) == 0


def default_config(form: LoopForm, machine: CpuMachine) -> SumsConfig:
    return SumsConfig(max(1, min(_TILE_ELEMENTS, _elements(form)) // block_of(machine)))


def candidate_configs(form: LoopForm, machine: CpuMachine) -> Iterator[SumsConfig]:
    """The default first."""
    default = default_config(form, machine)
    yield default
    for blocks in (default.blocks // 4, default.blocks * 4):
        if 1 <= blocks <= _elements(form) // block_of(machine):
            yield SumsConfig(blocks)


def plan_sum(form: LoopForm, machine: CpuMachine, config: SumsConfig | None = None) -> SumsPlan:
    """Errors: ValueError for a form that is no such sum, and a tile of no blocks."""
    if not takes_sum(form, machine):
        raise ValueError(f"{form.name} is no sum of dense 8-bit codes that {machine.name} adds in pairs")
    plan = SumsPlan(form, machine, config or default_config(form, machine))
    if not 1 <= plan.config.blocks <= plan.blocks:
        raise ValueError(f"a tile of {plan.config.blocks} blocks, of {plan.blocks}")
    return plan


def block_of(machine: CpuMachine) -> int:
    return machine.vector_bits // 8


def _elements(form: LoopForm) -> int:
    return prod(form.buffer("output").shape)


def packed_constants(parameters: Array, offset: int) -> Array:
    """`SumConstant`s of `SumParameter`s, in an array of the same size. offset: of stored codes."""
    p = {n: int(parameters[n]) for n in SumParameter}
    factors = (p[SumParameter.FACTOR_A], p[SumParameter.FACTOR_B])
    zeros = (p[SumParameter.ZERO_A] + offset, p[SumParameter.ZERO_B] + offset)
    if any(not -(1 << 30) <= factor < 1 << 30 for factor in factors):
        raise ValueError(f"factors {factors} take more than 31 bits")
    low, high = ([_part(f, high) for f in factors] for high in (False, True))
    numbers = {
        SumConstant.LOW_PAIR: _pair(*low),
        SumConstant.HIGH_PAIR: _pair(*high),
        SumConstant.ADDEND: (1 << (p[SumParameter.SHIFT] - 1))
        - sum(z * f for z, f in zip(zeros, factors, strict=True)),
        SumConstant.SHIFT: p[SumParameter.SHIFT],
        SumConstant.ZERO_POINT: p[SumParameter.ZERO_POINT] + offset,
        SumConstant.LOW: p[SumParameter.LOW] + offset,
        SumConstant.HIGH: p[SumParameter.HIGH] + offset,
    }
    packed = np.zeros(len(SumParameter), np.uint32)
    for place, number in numbers.items():
        packed[place] = number & 0xFFFFFFFF
    return packed.view(np.int32)


def _part(factor: int, high: bool) -> int:
    return factor >> LOW_BITS if high else factor & ((1 << LOW_BITS) - 1)


def _pair(of_a: int, of_b: int) -> int:
    return (of_a & 0xFFFF) | (of_b & 0xFFFF) << 16
