"""The schedule of loop forms on every CPU: which axis becomes vectors, and how large a tile is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from compiler.loops.expression import Axis, Expression, Load, Rescale, Select
from compiler.loops.form import LoopForm, Role
from compiler.loops.nest import Nest, Part, take_apart
from compiler.loops.rewrite import Linear, children, depends_on, loads
from compiler.lowering.kernel import structural_digest
from compiler.lowering.machine import CpuMachine
from compiler.lowering.tiling import TiledPart, Vectors
from compiler.numerics.element import Array, ElementType

# Private buffers up to this size live on the stack, larger ones behind the operand `scratch`.
_STACK_BYTES = 1024
_SCRATCH_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopsConfig:
    """Decisions of the loop template.

    vector_bytes: of the widest intermediate values of the elements that are computed together.
    tile_elements: values that the stages compute in one tile, roughly.
    """

    vector_bytes: int
    tile_elements: int


def default_config(form: LoopForm, machine: CpuMachine) -> LoopsConfig:
    """Two registers of the widest intermediate at a time, which hides the latency of a multiplication;
    tiles of some 16 K element operations, about 5 us, against which handing out a tile is cheap."""
    return LoopsConfig(vector_bytes=machine.vector_bits // 4, tile_elements=1 << 14)


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
        return tuple(_tiled(part, self.config) for part in take_apart(self.form))

    @cached_property
    def symbol(self) -> str:
        digest = structural_digest(self.form, self.machine, self.config)
        return f"{_type_prefix(self.form)}_{self.form.name}_{self.machine.name}_{digest[:8]}"

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
        for tiled in self.parts:
            for name, count in tiled.part.scratch:
                size = count * self.form.buffer(name).element.dtype.itemsize
                if tiled.inner is None and size > _STACK_BYTES:
                    result.append((name, end, size))
                    end += -(-size // _SCRATCH_ALIGNMENT) * _SCRATCH_ALIGNMENT
        return result

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        """Constants as they are. Errors: KeyError, ValueError for a missing or misshapen one."""
        packed: dict[str, Array] = {}
        for buffer in self.form.buffers:
            if buffer.role is Role.CONSTANT:
                value = constants[buffer.name]
                if value.shape != buffer.shape or value.dtype != buffer.element.dtype:
                    raise ValueError(f"{buffer.name} is {value.dtype}{value.shape}, not {buffer}")
                packed[buffer.name] = value
        return packed

    def build(self) -> bytes:
        from compiler.lowering.build import build_object
        from compiler.lowering.loop_nest import prim_func

        function = prim_func(self.form, self.parts, self.machine, self.scratch_offsets)
        return build_object({self.symbol: function}, dict(self.machine.target))


def plan_loops(form: LoopForm, machine: CpuMachine, config: LoopsConfig | None = None) -> LoopsPlan:
    """The kernel of a loop form. Errors: ValueError for an element type that loops cannot compute."""
    for buffer in form.buffers:
        if buffer.element in (ElementType.B1, ElementType.I2, ElementType.I4):
            raise ValueError(f"{form.name}: buffer {buffer.name} holds packed {buffer.element.value} codes")
    return LoopsPlan(form, machine, config or default_config(form, machine))


_PREFIXES = {
    ElementType.I8: "qs8",
    ElementType.I16: "qs16",
    ElementType.I32: "s32",
    ElementType.I64: "s64",
    ElementType.F32: "f32",
    ElementType.BOOL: "b8",
}


def _type_prefix(form: LoopForm) -> str:
    output = next((b for b in form.operands if b.role is Role.OUTPUT), form.buffers[0])
    return _PREFIXES[output.element]


def _tiled(part: Part, config: LoopsConfig) -> TiledPart:
    inner = _inner_axis(part)
    if inner is not None:
        regular = all(_vectorizable(n, inner) for n in part.nests)
        lanes = min(_lanes(n, inner, config) for n in part.nests) if regular else 1
        return _inner_tiles(part, inner, Vectors(inner, lanes), config)
    vectors_of = tuple(_own_vectors(n, config) for n in part.nests)
    work = sum(prod(a.extent for a in n.axes + n.over) for n in part.nests)
    rows = prod(a.extent for a in part.shared)
    return TiledPart(part, None, max(1, min(rows, config.tile_elements // max(work, 1))), 1, vectors_of)


def _inner_tiles(part: Part, inner: Axis, vectors: Vectors, config: LoopsConfig) -> TiledPart:
    rows = prod(a.extent for a in part.shared[:-1])
    work = sum(prod(a.extent for a in n.over) for n in part.nests)
    wanted = max(config.tile_elements // work, 1)
    per_tile = max(1, min(rows, wanted // inner.extent))
    # Channels are split only where there are no rows to split.
    chunk = inner.extent
    if rows == 1 and wanted < inner.extent:
        chunk = -(-wanted // vectors.lanes) * vectors.lanes
    return TiledPart(part, inner, per_tile, chunk, (vectors,) * len(part.nests))


def _inner_axis(part: Part) -> Axis | None:
    """The last shared axis, where all stages are computed for a vector of its indices at a time."""
    if not part.shared or any(n.axes for n in part.nests) or any(count != 1 for _, count in part.scratch):
        return None
    inner = part.shared[-1]
    alone = len(part.nests) == 1
    if all(_vectorizable(n, inner) for n in part.nests):
        return inner
    return inner if alone and _reduction_axis(part.nests[0]) is None else None


def _lanes(nest: Nest, axis: Axis, config: LoopsConfig) -> int:
    """A power of two that leaves at least one full vector."""
    width = max(_widest(e, axis) for e in nest.expressions)
    return min(config.vector_bytes // width, 1 << (axis.extent.bit_length() - 1))


def _own_vectors(nest: Nest, config: LoopsConfig) -> Vectors | None:
    """Along the last axis of the nest itself, else along a reduced one."""
    axis = nest.axes[-1] if nest.axes and _vectorizable(nest, nest.axes[-1]) else _reduction_axis(nest)
    return None if axis is None else Vectors(axis, _lanes(nest, axis, config))


def _reduction_axis(nest: Nest) -> Axis | None:
    """The last reduced axis where it can be summed in vectors: any order gives the same integer."""
    if not nest.over or not nest.value.element.is_integer:
        return None
    axis = nest.over[-1]
    return axis if _reads_in_steps(nest.value, axis) else None


def _vectorizable(nest: Nest, axis: Axis) -> bool:
    """A store that does not move with the axis is one to a private buffer, which has a slot per lane."""
    return nest.address.step(axis) in (0, 1) and all(_reads_in_steps(e, axis) for e in nest.expressions)


def _reads_in_steps(e: Expression, axis: Axis) -> bool:
    """Whether neighbouring indices of `axis` load the same or neighbouring elements, unconditionally."""
    if isinstance(e, Load):
        return Linear.of(e.indices[0]).step(axis) in (0, 1)
    if isinstance(e, Select) and depends_on(e.condition, axis):
        return not any(True for x in children(e)[1:] for _ in loads(x))
    return all(_reads_in_steps(x, axis) for x in children(e))


def _widest(e: Expression, axis: Axis) -> int:
    """Bytes of the widest value on the way to `e` that is computed for every index of `axis`."""
    match e:
        case Load():
            return e.element.dtype.itemsize
        case Rescale():
            return ElementType.I64.dtype.itemsize
        case Select() if not depends_on(e.condition, axis):
            return max(_widest(x, axis) for x in (e.when_true, e.when_false))
        case _:
            return max([e.element.dtype.itemsize, *(_widest(x, axis) for x in children(e))])
