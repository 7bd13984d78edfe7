"""The schedule of loop forms on every CPU: which axis becomes vectors, and how large a tile is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from compiler.loops.form import LoopForm, Role
from compiler.loops.nest import take_apart
from compiler.lowering.kernel import structural_digest
from compiler.lowering.machine import CpuMachine
from compiler.lowering.tiling import TiledPart
from compiler.numerics.element import Array, ElementType
from schedules.loop_tiles import LoopsConfig, tiled

# Private buffers up to this size live on the stack, larger ones behind the operand `scratch`.
_STACK_BYTES = 1024
_SCRATCH_ALIGNMENT = 64


def default_config(form: LoopForm, machine: CpuMachine) -> LoopsConfig:
    """Two registers of the widest intermediate at a time, which hides the latency of a multiplication;
    tiles of some 16 K element operations, about 5 us, against which handing out a tile is cheap."""
    return LoopsConfig(vector_bytes=machine.vector_bits // 2, tile_elements=1 << 14)


def candidate_configs(form: LoopForm, machine: CpuMachine) -> Iterator[LoopsConfig]:
    """The search space of a tuner, the default first."""
    default = default_config(form, machine)
    yield default
    for registers in (1, 2, 4):
        for tile_elements in (1 << 12, 1 << 14, 1 << 16):
            config = LoopsConfig(
                vector_bytes=machine.vector_bits // 8 * registers, tile_elements=tile_elements
            )
            if config != default:
                yield config


@dataclass(frozen=True)
class LoopsPlan:
    """A loop form on a machine; a KernelPlan."""

    form: LoopForm
    machine: CpuMachine
    config: LoopsConfig

    @cached_property
    def parts(self) -> tuple[TiledPart, ...]:
        return tuple(tiled(part, self.machine, self.config) for part in take_apart(self.form))

    @property
    def symbol(self) -> str:
        digest = structural_digest(self.form, self.machine, self.config)
        return f"{type_prefix(self.form)}_{self.form.name}_{self.lanes}_{self.machine.name}_{digest[:8]}"

    @property
    def lanes(self) -> int:
        """Elements of the widest vectors; 1 where nothing is computed in vectors."""
        return max((v.lanes for part in self.parts for v in part.vectors if v), default=1)

    @property
    def operands(self) -> tuple[str, ...]:
        names = tuple(b.name for b in self.form.operands)
        return (*names, "scratch") if self.scratch_bytes else names

    @property
    def tiles(self) -> int:
        return sum(p.tiles for p in self.parts)

    @cached_property
    def scratch_offsets(self) -> dict[str, int]:
        """Byte offsets of the private buffers that are too large for the stack."""
        return {name: offset for name, offset, _ in self._scratch}

    @property
    def scratch_bytes(self) -> int:
        return max((offset + size for _, offset, size in self._scratch), default=0)

    @cached_property
    def _scratch(self) -> list[tuple[str, int, int]]:
        result: list[tuple[str, int, int]] = []
        end = 0
        for walk in self.parts:
            for name, count in walk.part.scratch:
                size = count * self.form.buffer(name).element.dtype.itemsize
                if walk.inner is None and size > _STACK_BYTES:
                    result.append((name, end, size))
                    end += -(-size // _SCRATCH_ALIGNMENT) * _SCRATCH_ALIGNMENT
        return result

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        return packed_constants(self.form, constants)

    def build(self) -> bytes:
        from compiler.lowering.build import build_object
        from compiler.lowering.loop_nest import prim_func

        function = prim_func(self.form, self.parts, self.machine, self.scratch_offsets)
        return build_object({self.symbol: function}, dict(self.machine.target))


def plan_loops(form: LoopForm, machine: CpuMachine, config: LoopsConfig | None = None) -> LoopsPlan:
    """The kernel of a loop form. Errors: ValueError for packed elements, and a name that C cannot spell."""
    if not form.name.isidentifier():
        raise ValueError(f"form {form.name!r}: the name of a kernel must be a C identifier")
    for buffer in form.buffers:
        bits = buffer.element is ElementType.B1 and buffer.role in (Role.INPUT, Role.OUTPUT)
        if buffer.element.bits < 8 and not bits:
            raise ValueError(f"{form.name}: buffer {buffer.name} holds packed {buffer.element.value} codes")
    return LoopsPlan(form, machine, config or default_config(form, machine))


_PREFIXES = {
    ElementType.B1: "b1",
    ElementType.I8: "qs8",
    ElementType.I16: "qs16",
    ElementType.I32: "s32",
    ElementType.I64: "s64",
    ElementType.F32: "f32",
    ElementType.BOOL: "b8",
}


def type_prefix(form: LoopForm) -> str:
    output = next((b for b in form.operands if b.role is Role.OUTPUT), form.buffers[0])
    return _PREFIXES[output.element]


def packed_constants(form: LoopForm, constants: Mapping[str, Array]) -> dict[str, Array]:
    """Constants as they are. Errors: KeyError, ValueError for a missing or misshapen one."""
    packed: dict[str, Array] = {}
    for buffer in form.buffers:
        if buffer.role is Role.CONSTANT:
            value = constants[buffer.name]
            if value.shape != buffer.shape or value.dtype != buffer.element.dtype:
                raise ValueError(f"{buffer.name} is {value.dtype}{value.shape}, not {buffer}")
            packed[buffer.name] = value
    return packed
