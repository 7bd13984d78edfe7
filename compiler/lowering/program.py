"""Quantized graph -> program: the list of kernel calls, with a place for every operand.

This is the last form that is common to all targets. A target contributes one function, from loop forms to
kernel plans; what it does with the program (a C library, an instruction stream) is its own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from compiler.ir.graph import Graph, Node, Value
from compiler.ir.literal import Constant
from compiler.ir.op import Lowered, Operand
from compiler.loops.form import Form, LoopForm, Role
from compiler.lowering.kernel import KernelPlan
from compiler.lowering.memory_plan import ALIGNMENT, Lifetime, MemoryPlan, aligned, plan_memory
from compiler.lowering.storage import Place, StorageBuffer, part_places, place_values, slice_place
from compiler.numerics.element import Array
from compiler.ops.shape import Reshape
from compiler.ops.slicing import Concat, Slice

PlanKernel = Callable[[Form], KernelPlan]
SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class ConstantPlace:
    """Byte offset into the program's constants."""

    offset: int


@dataclass(frozen=True, slots=True)
class ScratchPlace:
    """The executing thread's scratch memory."""


@dataclass(eq=False, slots=True)
class ProgramStep:
    """One kernel call. operands: in the order of the plan's; reads, writes: the values behind them.

    completes: whether the values written are whole now; a concatenation may be copied part by part.
    """

    node: Node
    plan: KernelPlan
    operands: tuple[Place | ConstantPlace | ScratchPlace, ...]
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    completes: bool = True


class ConstantBlob:
    """All constant operands, aligned, equal contents stored once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._offsets: dict[bytes, int] = {}
        self.size = 0

    def add(self, array: Array) -> ConstantPlace:
        data = np.ascontiguousarray(array).tobytes()
        if data not in self._offsets:
            self._offsets[data] = self.size
            padded = data + bytes(aligned(len(data)) - len(data))
            self._parts.append(padded)
            self.size += len(padded)
        return ConstantPlace(self._offsets[data])

    def contents(self) -> bytes:
        """The blob, with readable slack behind it."""
        return b"".join(self._parts) + bytes(ALIGNMENT)


@dataclass(slots=True)
class Program:
    """offsets: byte offset in the arena of each arena buffer (external buffers have none)."""

    graph: Graph
    steps: list[ProgramStep]
    places: dict[Value, Place]
    constants: ConstantBlob
    offsets: dict[StorageBuffer, int] = field(default_factory=dict[StorageBuffer, int])
    memory: MemoryPlan = field(default_factory=lambda: MemoryPlan((), 0, 0))

    @property
    def scratch_bytes(self) -> int:
        """Per thread."""
        return max((step.plan.scratch_bytes for step in self.steps), default=0)

    def kernels(self) -> dict[str, KernelPlan]:
        """Distinct kernels by symbol: structurally equal layers share one."""
        return {step.plan.symbol: step.plan for step in self.steps}


def lower_program(graph: Graph, plan_kernel: PlanKernel, constants: ConstantBlob | None = None) -> Program:
    """Places, kernels and the memory plan of a verified quantized graph.

    constants: where those of the program are added; they may be those of programs before.
    Errors: whatever `plan_kernel` raises for a form that the target cannot take.
    """
    places, blob = place_values(graph), ConstantBlob() if constants is None else constants
    steps = [_step(call, places, blob, plan_kernel) for call in kernel_calls(graph, places)]
    program = Program(graph, steps, places, blob)
    _share_in_place(program)
    _plan_arena(program)
    return program


def lower_variants(graph: Graph, planners: Mapping[str, PlanKernel]) -> dict[str, Program]:
    """One program for each planner, by its name; they share their constants."""
    constants = ConstantBlob()
    return {name: lower_program(graph, plan, constants) for name, plan in planners.items()}


@dataclass(frozen=True, slots=True)
class KernelCall:
    """One piece of work of a node, before any target has looked at it. reads, writes: values of the form's
    INPUT and OUTPUT operands; places: where the latter lie; completes: as in `ProgramStep`.

    copies: the form moves one value, as a part of a concatenation or for a reshape.
    """

    node: Node
    lowered: Lowered
    reads: tuple[Value, ...]
    places: tuple[Place, ...]
    completes: bool = True
    copies: bool = False


def kernel_calls(graph: Graph, places: Mapping[Value, Place]) -> Iterator[KernelCall]:
    """What there is to do, in order: nothing for views, copies where a value could not be made in place."""
    walk = _Walk(places)
    for node in graph.nodes:
        yield from walk.node(node)


@dataclass(frozen=True, slots=True)
class _Walk:
    places: Mapping[Value, Place]

    def node(self, node: Node) -> Iterator[KernelCall]:
        match node.op:
            case Constant():
                return
            case Reshape():
                yield from self._copy_unless_shared(node, node.inputs[0], node.output)
            case Concat() if self._has_part_in_place(node):
                yield from self._copy_missing_parts(node)
            case Slice() if self._is_read_in_place(node.op, node.inputs[0], node.output):
                return
            case _:
                operands = [self._operand(v) for v in node.inputs]
                lowered = node.op.lower(operands, [self._operand(v) for v in node.outputs])
                reads = tuple(node.inputs[i] for i in lowered.inputs)
                yield KernelCall(node, lowered, reads, tuple(self.places[v] for v in node.outputs))

    def _operand(self, value: Value) -> Operand:
        if value.constant is not None:
            return Operand(value.type, None, value.constant)
        return Operand(value.type, self.places[value].strides)

    def _is_read_in_place(self, op: Slice, x: Value, y: Value) -> bool:
        # The same buffer is not enough: a slice may be another part of the concatenation that x is part of.
        return x in self.places and self.places[y] == slice_place(op, x, self.places[x])

    def _has_part_in_place(self, node: Node) -> bool:
        parts = part_places(node, self.places[node.output])
        return any(self.places.get(v) == part for v, part in zip(node.inputs, parts, strict=True))

    def _copy_unless_shared(self, node: Node, x: Value, y: Value) -> Iterator[KernelCall]:
        """x is copied in its own shape, so y lies in C order: views never walk strides."""
        if self.places.get(x) != self.places[y]:
            yield self._copy(node, x, self.places[y], True)

    def _copy_missing_parts(self, node: Node) -> Iterator[KernelCall]:
        """The parts of a concatenation that could not be written in place."""
        parts = zip(node.inputs, part_places(node, self.places[node.output]), strict=True)
        missing = [(value, part) for value, part in parts if self.places.get(value) != part]
        for value, part in missing:
            yield self._copy(node, value, part, part is missing[-1][1])

    def _copy(self, node: Node, x: Value, to: Place, completes: bool) -> KernelCall:
        """A copy is a concatenation of one part: x may be a constant."""
        lowered = Concat(0).lower([self._operand(x)], [Operand(x.type, to.strides)])
        return KernelCall(node, lowered, tuple([x][i] for i in lowered.inputs), (to,), completes, True)


def _step(
    call: KernelCall, places: Mapping[Value, Place], constants: ConstantBlob, plan_kernel: PlanKernel
) -> ProgramStep:
    plan = plan_kernel(call.lowered.form)
    names, written = operand_names(call.lowered.form)
    found: dict[str, Place | ConstantPlace | ScratchPlace] = {SCRATCH: ScratchPlace()}
    for name, value in zip(names, call.reads, strict=True):
        found[name] = places[value]
    found.update(zip(written, call.places, strict=True))
    for name, array in plan.pack(call.lowered.constants).items():
        found[name] = constants.add(array)
    operands = tuple(found[name] for name in plan.operands)
    return ProgramStep(call.node, plan, operands, call.reads, tuple(call.node.outputs), call.completes)


def operand_names(form: Form) -> tuple[list[str], list[str]]:
    """Names of a form's INPUT and OUTPUT operands, in order."""
    if not isinstance(form, LoopForm):
        return ["input"], ["output"]
    return (
        [b.name for b in form.buffers if b.role is Role.INPUT],
        [b.name for b in form.buffers if b.role is Role.OUTPUT],
    )


def lifetimes(program: Program) -> dict[StorageBuffer, Lifetime]:
    """First and last step of every arena buffer that a step touches."""
    first: dict[StorageBuffer, int] = {}
    last: dict[StorageBuffer, int] = {}
    for index, step in enumerate(program.steps):
        for value in (*step.reads, *step.writes):
            buffer = program.places[value].buffer
            first.setdefault(buffer, index)
            last[buffer] = index
    return {b: Lifetime(b.size, first[b], last[b]) for b in first if not b.is_external}


def _share_in_place(program: Program) -> None:
    """Lets element-wise steps write over their first input, where it is needed no more."""
    alive = lifetimes(program)
    for index, step in enumerate(program.steps):
        form = step.plan.form
        if not (isinstance(form, LoopForm) and form.in_place and step.reads):
            continue
        source, target = (program.places[v].buffer for v in (step.reads[0], step.writes[0]))
        if source is target or source not in alive or target not in alive:
            continue
        others = [program.places[v] for v in step.reads[1:] if v is not step.reads[0]]
        if any(p.buffer is source for p in others) or not _covers(program, step):
            continue
        if alive[source].last != index or alive[target].first != index or source.size != target.size:
            continue
        _merge(program, source, target)
        alive[source] = Lifetime(source.size, alive[source].first, alive[target].last)
        del alive[target]


def _covers(program: Program, step: ProgramStep) -> bool:
    """Whether input and output fill their buffers densely and element for element."""
    x, y = step.reads[0], step.writes[0]
    dense = all(program.places[v].strides is None and program.places[v].offset == 0 for v in (x, y))
    return dense and x.type.shape == y.type.shape and x.type.element is y.type.element


def _merge(program: Program, keep: StorageBuffer, gone: StorageBuffer) -> None:
    for value in gone.values:
        old = program.places[value]
        program.places[value] = Place(keep, old.offset, old.strides)
    keep.values.extend(gone.values)
    for step in program.steps:
        step.operands = tuple(
            Place(keep, o.offset, o.strides) if isinstance(o, Place) and o.buffer is gone else o
            for o in step.operands
        )


def _plan_arena(program: Program) -> None:
    alive = lifetimes(program)
    buffers = list(alive)
    program.memory = plan_memory([alive[b] for b in buffers])
    program.offsets = dict(zip(buffers, program.memory.offsets, strict=True))
