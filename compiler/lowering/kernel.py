"""Kernels before they are built: cheap to make, hashable, and free of TVM.

A kernel is `int32_t symbol(void *operand0, …, int32_t begin, int32_t end)`: pure, re-entrant, computing
the tiles [begin, end) of `tiles` equal shares of the work in any order and on any thread. Planning
decides names, layouts and the schedule's configuration; building (slow, cached by `digest`) makes
the object file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

from compiler.loops.form import Form
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array


class KernelConfig(Protocol):
    """A template's decisions (tiles, unrolling, order): a frozen dataclass, searched by the tuner."""

    def __hash__(self) -> int: ...


class Machine(Protocol):
    """What a plan says that it is for: a CPU, or a GPU."""

    @property
    def name(self) -> str: ...


class KernelPlan(Protocol):
    """One kernel of one machine. Equal plans build equal objects."""

    @property
    def form(self) -> Form: ...

    @property
    def machine(self) -> Machine: ...

    @property
    def config(self) -> KernelConfig: ...

    @property
    def symbol(self) -> str:
        """C name: type, operator, tile, instruction set and digest, as
        qs8_conv2d_6x32_avx512vnni_1a2b3c4d."""
        ...

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the pointer operands in the order of the C function."""
        ...

    @property
    def tiles(self) -> int:
        """Shares that the work is split into; 1 where it is too small to split."""
        ...

    @property
    def scratch_bytes(self) -> int:
        """Bytes that each thread needs behind the operand named 'scratch'; 0 where there is none."""
        ...

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        """Constant operands as the kernel wants them (packed weights, corrected bias), from the form's."""
        ...

    def build(self) -> bytes:
        """The object file (imports TVM)."""
        ...


def cpu_of(plan: KernelPlan) -> CpuMachine:
    """The machine of a CPU's plan. Errors: TypeError for a plan of another kind of machine."""
    if not isinstance(plan.machine, CpuMachine):
        raise TypeError(f"{plan.symbol} is for {plan.machine.name}, which is no CPU")
    return plan.machine


def structural_digest(*parts: object) -> str:
    """16 hex digits that name equal structures equally, in every process."""
    return hashlib.sha256("\0".join(repr(p) for p in parts).encode()).hexdigest()[:16]
