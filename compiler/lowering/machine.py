"""What a kernel template must know of a CPU. One object per instruction-set level."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class DotProduct(Enum):
    """The instruction that multiplies and accumulates into int32 lanes, and how many products it sums."""

    VNNI = "vpdpbusd"  # 4 products of uint8 activations and int8 weights
    PMADDWD = "vpmaddwd"  # 2 products of int16, then an add (vpdpwssd where VNNI exists)
    PMADDUBSW = "vpmaddubsw"  # 4 products of uint8 and int8 with VPMADDWD, where pairs cannot saturate
    SDOT = "sdot"  # 4 products of int8
    SMMLA = "smmla"  # 2x8 by 8x2 matrices of int8; such machines have sdot as well
    SMLAL = "smlal"  # widening int8 multiplies, pairwise accumulation
    VMLAL = "vmlal"  # the same on 32-bit Arm, with half the registers
    NONE = "none"  # plain vector arithmetic


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuMachine:
    """A CPU as seen by schedules.

    target: the TVM/LLVM target as sorted key-value pairs (mtriple, mcpu, mattr).
    vector_bits, vector_registers: of the widest registers that kernels use.
    activation_offset: 8-bit activation codes are stored as uint8 code + offset in the arena (128 where
        the dot product wants unsigned activations), or as int8 where 0.
    matrix_tiles: there are tile registers of 16 rows of 64 bytes, and TDPBUSD multiplies uint8 by int8 tiles.
    in_order: instructions issue in the order of the program, so that only the schedule hides latencies.
    required_features: what a library must find at run time before it calls a kernel.
    """

    name: str
    target: tuple[tuple[str, str | tuple[str, ...]], ...]
    dot: DotProduct
    vector_bits: int
    vector_registers: int
    activation_offset: int
    matrix_tiles: bool
    l1_bytes: int
    l2_bytes: int
    in_order: bool
    required_features: tuple[str, ...]

    @property
    def lanes(self) -> int:
        """int32 lanes of a register."""
        return self.vector_bits // 32

    @property
    def is_x86(self) -> bool:
        return self.dot not in (DotProduct.SDOT, DotProduct.SMMLA, DotProduct.SMLAL, DotProduct.VMLAL)

    @property
    def is_aarch64(self) -> bool:
        return str(dict(self.target).get("mtriple", "")).startswith(("aarch64", "arm64"))

    @property
    def permutes_bytes(self) -> bool:
        """Whether one instruction looks bytes up in two registers of 64 (vpermi2b) or four of 16 (tbl)."""
        return "avx512vbmi" in self.required_features or self.is_aarch64

    @property
    def shifts_bytes(self) -> bool:
        """Whether one instruction shifts each byte of a register, so that two extract a signed field."""
        return self.is_aarch64

    @property
    def counts_bits(self) -> bool:
        """Whether one instruction counts the bits of each int32 lane (vpopcntd)."""
        return "avx512_vpopcntdq" in self.required_features
