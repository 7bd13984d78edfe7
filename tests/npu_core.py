"""A core of the NPU by hand: arrays go into its memories, single instructions run, arrays come out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compiler.numerics.element import Array
from sim.config import load_config
from sim.functional.core import Core, External
from sim.functional.execute import step
from sim.functional.memory import pack_rows, unpack_rows
from sim.isa import Engine, Factors, Inputs, Instruction, Memory, Operands, Output, Window

CONFIG = load_config("npu-128")


@dataclass(slots=True)
class Bench:
    """One core and its external memories."""

    core: Core
    external: External

    @classmethod
    def of(cls, sram: Array | None = None, dram: Array | None = None) -> Bench:
        return cls(Core.of(CONFIG), External.of(CONFIG, sram, dram))

    def run(self, *instructions: Instruction) -> None:
        for instruction in instructions:
            step(self.core, self.external, instruction)

    def put(self, memory: Memory, at: int, data: Array) -> None:
        self.core.local[memory].write(at, (1,), np.ascontiguousarray(data).view(np.uint8).reshape(-1))

    def put_codes(self, at: int, codes: Array, bits: int, memory: Memory = Memory.ACTIVATION) -> None:
        """Packed rows [rows, count], one behind the other."""
        self.put(memory, at, pack_rows(codes, bits))

    def codes(self, at: int, rows: int, count: int, bits: int) -> Array:
        width = -(-count * bits // 8)
        data = self.core.activation.read(at, (rows, width), (width, 1))
        return unpack_rows(data, count, bits)


def window(engine: Engine, **fields: int) -> Window:
    """A window of 1 x 1 over one pixel, but for what is given."""
    one = {n: 1 for n in ("kernel", "stride", "dilation") for n in (f"{n}_y", f"{n}_x")}
    return Window(engine=engine, **{**one, "pad_top": 0, "pad_left": 0, "height": 1, "width": 1, **fields})


def operands(**fields: int) -> Operands:
    """8-bit codes without zero points, but for what is given."""
    plain = {"act_bits": 8, "wgt_bits": 8, "act_zero": 0, "wgt_zero": 0, "row_stride": 0, "pixel_stride": 0}
    return Operands(**{**plain, **fields})


def output(bits: int = 8, *, lookup: bool = False, **fields: int) -> Output:
    """The whole range of codes."""
    half = 1 << (min(bits, 16) - 1)
    whole = {"low": -half, "high": half - 1, "zero_point": 0, "stride": 0, "table": 0}
    if bits == 1:
        whole |= {"low": -1, "high": 1}
    return Output(out_bits=bits, lookup=lookup, **{**whole, **fields})


def inputs(bits: int = 8, *, b_scalar: bool = False, **fields: int) -> Inputs:
    plain = dict.fromkeys(("a_zero", "b_zero", "a_stride", "b_stride", "a_image_stride"), 0)
    return Inputs(b_scalar=b_scalar, **{"a_bits": bits, "b_bits": bits, **plain, **fields})


def factors(a: int = 1, b: int = 0, shift: int = 0) -> Factors:
    return Factors(multiplier_a=a, multiplier_b=b, shift=shift)
