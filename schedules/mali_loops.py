"""Loop forms on a GPU: which indices are work-items, and which are lanes of vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from compiler.loops.expression import Axis, Expression, Floor, Load, Rescale, Select
from compiler.loops.form import LoopForm, Reduction, Role
from compiler.loops.nest import Nest, Part, take_apart
from compiler.loops.phases import Phases, split_reductions
from compiler.loops.rewrite import Linear, depends_on, loads, walk
from compiler.lowering.kernel import structural_digest
from compiler.numerics.element import Array, ElementType
from schedules.loops import packed_constants, type_prefix
from schedules.mali_code import Code, Value, type_of
from schedules.mali_kernel import SCRATCH, ClConfig, ClKernel, ClParameter, check_group, kernel
from schedules.mali_machines import GpuMachine
from schedules.mali_values import ClLanes, Memory

I32 = ElementType.I32
# Private memory of a work-item beyond this many bytes would lie in main memory for all of them at once.
_PRIVATE_BYTES = 16 << 10
_VECTOR_BYTES = 16
# Long reductions are split where a form has fewer independent indices than this part of the work-items that
# keep a GPU busy.
_FEW = 16
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ClLoopsConfig(ClConfig):
    """vector_bytes: of the widest values that a work-item computes at a time."""

    vector_bytes: int


@dataclass(frozen=True)
class ClLoopsPlan:
    """A loop form on a GPU; a ClPlan. Each independent part of each of its phases is a kernel."""

    form: LoopForm
    machine: GpuMachine
    config: ClLoopsConfig

    @property
    def symbol(self) -> str:
        digest = structural_digest(self.form, self.machine, self.config)
        return f"{type_prefix(self.form)}_{self.form.name}_{self.machine.name}_{digest[:8]}"

    @property
    def operands(self) -> tuple[str, ...]:
        names = tuple(b.name for b in self.form.operands)
        return (*names, SCRATCH) if self.scratch_bytes else names

    @property
    def tiles(self) -> int:
        return 1

    @cached_property
    def phases(self) -> Phases:
        return _phases(self.form, self.machine)

    @property
    def scratch(self) -> dict[str, int]:
        """Byte offset, behind the operand `scratch`, of each buffer that phases pass on."""
        ends = [0]
        for b in self.phases.passed:
            size = prod(b.shape) * b.element.dtype.itemsize
            ends.append(ends[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
        return {b.name: end for b, end in zip(self.phases.passed, ends, strict=False)} | {"": ends[-1]}

    @property
    def scratch_bytes(self) -> int:
        """Of the whole launch, for kernels run one after another."""
        return self.scratch[""]

    @cached_property
    def kernels(self) -> tuple[ClKernel, ...]:
        parts = [(phase, part) for phase in self.phases.forms for part in take_apart(phase)]
        return tuple(_Part(self, *of).kernel(f"{self.symbol}_{i}") for i, of in enumerate(parts))

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        return packed_constants(self.form, constants)

    def build(self) -> bytes:
        raise TypeError(f"{self.symbol} is OpenCL C, which the device's driver builds")


def plan_cl_loops(form: LoopForm, machine: GpuMachine, config: ClLoopsConfig | None = None) -> ClLoopsPlan:
    """Errors: ValueError with the reason where a GPU does not take the form, or runs no such work-group."""
    for reason in (_computes_floats, _packs_bits):
        if reason(form):
            raise ValueError(str(reason.__doc__))
    if any(map(_keeps_much, _phases(form, machine).forms)):
        raise ValueError(str(_keeps_much.__doc__))
    config = config or default_config()
    check_group(config.group, machine)
    return ClLoopsPlan(form, machine, config)


def default_config() -> ClLoopsConfig:
    return ClLoopsConfig(vector_bytes=4 * _VECTOR_BYTES)


def _computes_floats(form: LoopForm) -> bool:
    """OpenCL does not promise the rounding of IEEE floats, subnormals included"""
    if any(b.element is ElementType.F32 for b in form.buffers):
        return True
    return any(
        isinstance(e, Floor) or e.element is ElementType.F32 for x in _expressions(form) for e in walk(x)
    )


def _packs_bits(form: LoopForm) -> bool:
    """codes narrower than a byte are packed and unpacked by the CPU"""
    return any(b.element.bits < 8 for b in form.buffers)


def _keeps_much(form: LoopForm) -> bool:
    """what passes between its stages does not fit the private memory of a work-item"""
    for part in take_apart(form):
        size = sum(count * form.buffer(name).element.dtype.itemsize for name, count in part.scratch)
        if size > _PRIVATE_BYTES:
            return True
    return False


def _phases(form: LoopForm, machine: GpuMachine) -> Phases:
    """Long reductions are split where they leave work-items without work, or need much private memory."""
    items = max(prod(a.extent for a in part.shared) for part in take_apart(form))
    split = None
    if items < machine.work_items // _FEW or _keeps_much(form):
        split = split_reductions(form)
    return split or Phases((form,), ())


def _expressions(form: LoopForm) -> Sequence[Expression]:
    return [e for s in form.stages for e in (s.value, s.initial) if e is not None]


@dataclass(frozen=True, slots=True)
class _Part:
    plan: ClLoopsPlan
    phase: LoopForm
    part: Part

    def kernel(self, name: str) -> ClKernel:
        axes, inner = self.part.shared, self._inner_axis()
        lanes = 1 if inner is None else min(self._lanes(nest, inner) for nest in self.part.nests)
        outer = [a for a in axes if a != inner or lanes == 1]
        extents = [a.extent for a in outer]
        vectors = [] if inner is None or lanes == 1 else [-(-inner.extent // lanes)]
        *slow, second, first = [1, 1, *extents, *vectors]
        code = Code()
        indices = _indices(code, outer, bool(vectors))
        items = (first, second, prod(slow))
        here = ClLanes(code, self._memory(code, lanes), indices)
        if vectors:
            assert inner is not None
            self._in_vectors(here, inner, lanes)
        else:
            for nest in self.part.nests:
                self._walk(here, nest)
        wanted = self.plan.config.group
        return kernel(name, self._parameters(), code.text(), items, self.plan.machine, wanted)

    def _parameters(self) -> list[ClParameter]:
        form = self.plan.form
        scratch = [ClParameter(SCRATCH, ElementType.I8, False)] if self.plan.scratch_bytes else []
        return [
            ClParameter(b.name, b.element, b.role is not Role.OUTPUT and not form.in_place, not form.in_place)
            for b in form.operands
        ] + scratch

    def _memory(self, code: Code, lanes: int) -> dict[str, Memory]:
        form = self.phase
        passed = {b.name for b in self.plan.phases.passed}
        for b in form.operands:
            if b.name in passed:
                pointer = f"__global {type_of(b.element)} *"
                place = f"p_{SCRATCH} + {self.plan.scratch[b.name]}"
                code.add(f"{pointer}p_{b.name} = ({pointer})({place});")
        written = {nest.output for nest in self.part.nests}
        memory = {
            b.name: Memory(
                f"p_{b.name}",
                b.element,
                changes=b.name in written or (form.in_place and b.role is Role.INPUT),
            )
            for b in form.operands
        }
        inner = self._inner_axis() is not None
        for name, count in self.part.scratch:
            element = form.buffer(name).element
            if inner:
                memory[name] = Memory(code.variable(name, None, element, lanes).text, element, True, True)
            else:
                own = code.name(name)
                code.add(f"{Value('', element).type} {own}[{count}];")
                memory[name] = Memory(own, element, changes=True)
        return memory

    def _inner_axis(self) -> Axis | None:
        """The last shared axis, where the stages have no axes of their own."""
        part = self.part
        if not part.shared or any(n.axes for n in part.nests) or any(count != 1 for _, count in part.scratch):
            return None
        return part.shared[-1]

    def _lanes(self, nest: Nest, axis: Axis) -> int:
        """As many as the widest value allows, of which the axis fills at least one vector."""
        if any(_guards_by_lane(e, axis) for e in nest.expressions):
            return 1
        widest = max(e.element.dtype.itemsize for x in nest.expressions for e in walk(x))
        if not all(_reads_in_steps(e, axis) for e in nest.expressions):
            widest = max(widest, 4)
        most = max(1, min(self.plan.config.vector_bytes // widest, 16))
        if any(isinstance(e, Rescale) for x in nest.expressions for e in walk(x)):
            most = min(most, 8)
        while most > axis.extent:
            most //= 2
        return most

    def _in_vectors(self, here: ClLanes, inner: Axis, lanes: int) -> None:
        """All nests for the vector that this work-item computes; the last one may be short."""
        rest = inner.extent % lanes
        code = here.code
        first = code.let(f"item_x * {lanes}", I32)
        if rest == 0:
            self._together(here, inner, first, lanes)
            return
        with code.block(f"if ({first.text} + {lanes} <= {inner.extent})"):
            self._together(here, inner, first, lanes)
        with code.block("else"):
            index = code.name(inner.name)
            with code.block(f"for (int {index} = {first.text}; {index} < {inner.extent}; {index}++)"):
                memory = {
                    name: Memory(code.variable(name, None, m.element).text, m.element, True, True)
                    if m.lanewise
                    else m
                    for name, m in here.memory.items()
                }
                self._together(replace(here, memory=memory), inner, Value(index, I32), 1)

    def _together(self, here: ClLanes, inner: Axis, first: Value, lanes: int) -> None:
        at = replace(here.at({inner.name: first}), vector=inner, lanes=lanes)
        for nest in self.part.nests:
            _element(nest, at)

    def _walk(self, here: ClLanes, nest: Nest) -> None:
        """A nest over its own axes, the last of them in vectors where stores follow each other."""
        axis = nest.axes[-1] if nest.axes else None
        lanes = 1 if axis is None or nest.address.step(axis) != 1 else self._lanes(nest, axis)
        if axis is None or lanes < 4:
            _for_all(nest.axes, here, lambda at: _element(nest, at))
            return

        def vectors(at: ClLanes) -> None:
            full = axis.extent - axis.extent % lanes
            for begin, end, count in ((0, full, lanes), (full, axis.extent, 1)):
                if begin < end:
                    index = at.code.name(axis.name)
                    with at.code.block(f"for (int {index} = {begin}; {index} < {end}; {index} += {count})"):
                        inside = at.at({axis.name: Value(index, I32)})
                        _element(nest, replace(inside, vector=axis, lanes=count))

        _for_all(nest.axes[:-1], here, vectors)


def _element(nest: Nest, at: ClLanes) -> None:
    """The store of one output element, of each lane."""
    if not nest.over:
        at.store(nest.output, nest.address, at.value(nest.value))
        return
    assert nest.initial is not None
    to, at = at, _once(nest, at)
    initial = at.spread(at.value(nest.initial), at.lanes)
    total = at.code.variable("total", initial, nest.value.element, at.lanes)

    def accumulate(here: ClLanes) -> None:
        value = here.spread(here.value(nest.value), here.lanes).text
        if nest.reduction is Reduction.SUM:
            here.code.add(f"{total.text} += {value};")
        else:
            here.code.add(f"{total.text} = max({total.text}, {value});")

    _for_all(nest.over, at, accumulate)
    to.store(nest.output, nest.address, total)


def _once(nest: Nest, at: ClLanes) -> ClLanes:
    """One lane where all compute the same."""
    vector = at.vector
    if vector is None or any(
        depends_on(e, vector) or any(at.memory[x.buffer].lanewise for x in loads(e)) for e in nest.expressions
    ):
        return at
    return replace(at, vector=None, lanes=1)


def _for_all(axes: Sequence[Axis], here: ClLanes, body: Callable[[ClLanes], None]) -> None:
    if not axes:
        body(here)
        return
    index = here.code.name(axes[0].name)
    with here.code.block(f"for (int {index} = 0; {index} < {axes[0].extent}; {index}++)"):
        _for_all(axes[1:], here.at({axes[0].name: Value(index, I32)}), body)


def _indices(code: Code, axes: Sequence[Axis], vectors: bool) -> dict[str, Value]:
    """Of the axes, the last of which are dimensions of their own, and the others numbered by z in C order."""
    found: dict[str, Value] = {}
    free = ["item_y", "item_z"] if vectors else ["item_x", "item_y", "item_z"]
    rest = list(axes)
    while rest and (len(free) > 1 or len(rest) == 1):
        found[rest.pop().name] = Value(free.pop(0), I32)
    number = Value("item_z", I32)
    for axis in reversed(rest):
        if axis is rest[0]:
            found[axis.name] = number
        else:
            found[axis.name] = code.let(f"{number.text} % {axis.extent}", I32)
            number = code.let(f"{number.text} / {axis.extent}", I32)
    return found


def _guards_by_lane(e: Expression, axis: Axis) -> bool:
    """Whether a condition that differs by lane guards a load."""
    return any(
        isinstance(x, Select)
        and depends_on(x.condition, axis)
        and any(True for branch in (x.when_true, x.when_false) for _ in loads(branch))
        for x in walk(e)
    )


def _reads_in_steps(e: Expression, axis: Axis) -> bool:
    """Whether lanes read the same or neighbouring elements."""
    return all(Linear.of(x.indices[0]).step(axis) in (0, 1) for x in walk(e) if isinstance(x, Load))
