"""GPU plans whose kernels tests write in OpenCL C, sound or with a fault: no device is told which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.loops.form import LoopForm
from compiler.lowering.kernel import structural_digest
from compiler.numerics.element import Array, ElementType
from schedules.mali_kernel import ClKernel, ClParameter, kernel
from schedules.mali_machines import GENERIC, GpuMachine
from tests.planted_plans import SIZE, copy_form

_COPY = "    p_y[item_x] = p_x[item_x];\n"
BODIES = {
    "sound": _COPY,
    "slow": f"    for (volatile int k = 0; k < 2000; k++)\n        ;\n{_COPY}",
    "crashing": f"    *(volatile __global int *)(ulong)(8) = 1;\n{_COPY}",
    "hanging": f"    for (volatile int k = 0; k < 2; k = 0)\n        ;\n{_COPY}",
    "wrong": "    p_y[item_x] = p_x[item_x] ^ (item_x == 17);\n",
    "trespassing": f"{_COPY}    p_y[{SIZE} + 3] = 0;\n",
    "unbuildable": "    p_y[item_x] = nothing;\n",
}


@dataclass(frozen=True)
class PlantedGpuPlan:
    """A copy of 4096 codes. kind: of BODIES, or "large group" or "huge"."""

    kind: str
    number: int = 0

    @property
    def form(self) -> LoopForm:
        return copy_form()

    @property
    def machine(self) -> GpuMachine:
        return GENERIC

    @property
    def config(self) -> str:
        return self.kind

    @property
    def symbol(self) -> str:
        return f"planted_{structural_digest(self.kind, self.number)}"

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "y")

    @property
    def tiles(self) -> int:
        return 1

    @property
    def scratch_bytes(self) -> int:
        return 0

    @property
    def kernels(self) -> tuple[ClKernel, ...]:
        element = ElementType.I8
        parameters = [ClParameter("x", element, True), ClParameter("y", element, False)]
        group = (1 << 20, 1, 1) if self.kind == "large group" else (64, 1, 1)
        body = BODIES.get(self.kind, _COPY)
        items = (1 << 20, 1, 1) if self.kind == "large group" else (SIZE, 1, 1)
        return (kernel(self.symbol, parameters, body, items, self.machine, group),)

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        return {}

    def build(self) -> bytes:
        raise TypeError("a driver builds it")
