"""Loop forms taken apart for code generation: stages on flat memory, grouped into independent parts.

A part is a set of stages that exchange data, with the leading axes that all of them share: for equal
indices of the shared axes they only see each other's results, so that any set of shared indices can
run on any thread, and what passes between the stages stays in a small private buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from compiler.loops.expression import Axis, Constant, Expression, Load
from compiler.loops.form import Buffer, LoopForm, Reduction, Role, Stage
from compiler.loops.rewrite import Linear, children, loads, map_children, substitute
from compiler.numerics.element import ElementType


@dataclass(frozen=True, slots=True)
class Nest:
    """One stage: memory[address] = value for all shared and private axes, reduced over `over`.

    address: in elements of the output buffer. Every load in `value` has one index, an address likewise.
    """

    output: str
    address: Linear
    axes: tuple[Axis, ...]  # private: those that the other stages of the part do not share
    value: Expression
    over: tuple[Axis, ...] = ()
    reduction: Reduction = Reduction.SUM
    initial: Expression | None = None

    @property
    def packed(self) -> bool:
        """Whether the stage writes packed bits."""
        return self.value.element is ElementType.B1

    @property
    def addresses(self) -> tuple[Linear, ...]:
        """Of the store and of every load."""
        return (self.address, *(Linear.of(x.indices[0]) for e in self.expressions for x in loads(e)))

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return (self.value,) if self.initial is None else (self.value, self.initial)


@dataclass(frozen=True, slots=True)
class Part:
    """Stages that run together, in order, for each index of the shared axes.

    scratch: name and element count of the buffers that one index of the shared axes needs.
    """

    shared: tuple[Axis, ...]
    nests: tuple[Nest, ...]
    scratch: tuple[tuple[str, int], ...] = ()


def strides_of(buffer: Buffer) -> tuple[int, ...]:
    """Strides in elements, C order where the buffer names none; rows of packed bits take whole bytes."""
    if buffer.strides is not None:
        return buffer.strides
    shape = buffer.shape
    if buffer.element is ElementType.B1 and shape:
        shape = (*shape[:-1], -(-shape[-1] // 8) * 8)
    return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def span_of(buffer: Buffer) -> int:
    """Elements from the first to behind the last."""
    return 1 + sum((n - 1) * s for n, s in zip(buffer.shape, strides_of(buffer), strict=True))


def take_apart(form: LoopForm) -> tuple[Part, ...]:
    """The independent parts of a form, in order of their first stages. Axes that memory sees as one are
    merged, so that an element-wise form of contiguous buffers has a single long axis."""
    return tuple(_merged(_part(form, group)) for group in _groups(form))


def _groups(form: LoopForm) -> list[list[Stage]]:
    """Stages connected by a buffer that one writes and another reads."""
    names = list(range(len(form.stages)))
    reads = [{x.buffer for e in _expressions(s) for x in loads(e)} for s in form.stages]
    for name in {s.output for s in form.stages}:
        if not any(name in r for r in reads):
            continue
        linked = [i for i, s in enumerate(form.stages) if s.output == name or name in reads[i]]
        joined = {names[i] for i in linked}
        names = [min(joined) if n in joined else n for n in names]
    return [[form.stages[i] for i, n in enumerate(names) if n == root] for root in sorted(set(names))]


def _expressions(stage: Stage) -> tuple[Expression, ...]:
    return (stage.value,) if stage.initial is None else (stage.value, stage.initial)


def _part(form: LoopForm, stages: Sequence[Stage]) -> Part:
    count = _shared_axes(stages)
    shared = tuple(Axis(f"s{d}", a.extent) for d, a in enumerate(stages[0].axes[:count]))
    written = {s.output for s in stages}
    private = [b for b in form.buffers if b.name in written and b.role is Role.SCRATCH]
    flat = {b.name: strides_of(b) for b in form.buffers}
    for b in private:  # one index of the shared axes at a time
        flat[b.name] = (0,) * count + strides_of(replace(b, strides=None))[count:]
    nests = tuple(_nest(stage, shared, flat) for stage in stages)
    return Part(shared, nests, tuple((b.name, prod(b.shape[count:])) for b in private))


def _shared_axes(stages: Sequence[Stage]) -> int:
    """How many leading axes the stages have in common, in every buffer that passes between them."""
    if len(stages) == 1:
        return len(stages[0].axes)
    exchanged = {s.output for s in stages} & {
        x.buffer for s in stages for e in _expressions(s) for x in loads(e)
    }
    count = min(len(s.axes) for s in stages)
    for stage in stages:
        count = _common(
            count, [a.extent == b.extent for a, b in zip(stage.axes, stages[0].axes, strict=False)]
        )
        if stage.output in exchanged and stage.origin is not None:
            count = _common(count, [o == 0 for o in stage.origin])
        for e in _expressions(stage):
            for load in loads(e):
                if load.buffer in exchanged:
                    same = [i == a for i, a in zip(load.indices, stage.axes, strict=False)]
                    count = min(_common(count, same), len(load.indices))
    return count


def _common(count: int, holds: list[bool]) -> int:
    return min(count, len(holds), next((d for d, h in enumerate(holds) if not h), count))


def _nest(stage: Stage, shared: tuple[Axis, ...], flat: dict[str, tuple[int, ...]]) -> Nest:
    count = len(shared)
    private = tuple(Axis(f"p{d}", a.extent) for d, a in enumerate(stage.axes[count:]))
    over = tuple(Axis(f"r{d}", a.extent) for d, a in enumerate(stage.over))
    renamed = {
        old: Constant(0) if new.extent == 1 else new
        for old, new in zip(stage.axes + stage.over, shared + private + over, strict=True)
    }

    def flatten(e: Expression) -> Expression:
        e = map_children(e, flatten)
        if not isinstance(e, Load):
            return e
        return Load(e.buffer, (_address(e.indices, flat[e.buffer]).expression(),), e.type)

    origin = stage.origin or (0,) * len(stage.axes)
    place = [Linear.of(a) + Linear(o) for a, o in zip(shared + private, origin, strict=True)]
    address = sum((p.scaled(s) for p, s in zip(place, flat[stage.output], strict=True)), Linear())
    value, initial = (e and flatten(substitute(e, renamed)) for e in (stage.value, stage.initial))
    assert value is not None
    return Nest(stage.output, address, private, value, over, stage.reduction, initial)


def _address(indices: tuple[Expression, ...], strides: tuple[int, ...]) -> Linear:
    return sum((Linear.of(i).scaled(s) for i, s in zip(indices, strides, strict=True)), Linear())


def _merged(part: Part) -> Part:
    shared = _without_units(part.shared)
    # A reduction stays one, even of a single value.
    nests = [
        replace(n, axes=_without_units(n.axes), over=_without_units(n.over) or n.over[:1]) for n in part.nests
    ]
    shared, nests = _merge_all(shared, nests)
    done: list[Nest] = []
    for nest in nests:
        axes, [nest] = _merge_all(nest.axes, [nest])
        over, [nest] = _merge_all(nest.over, [replace(nest, axes=axes)])
        done.append(replace(nest, over=over))
    return Part(shared, tuple(done), part.scratch)


def _without_units(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if a.extent != 1)


def _merge_all(axes: tuple[Axis, ...], nests: list[Nest]) -> tuple[tuple[Axis, ...], list[Nest]]:
    """Neighbouring axes a, b become one where every address moves with a as with b's whole extent."""
    result: list[Axis] = []
    for b in axes:
        if result and all(_mergeable(n, result[-1], b) for n in nests):
            a = result.pop()
            both = Axis(b.name, a.extent * b.extent)
            nests = [_renamed(n, {a: Constant(0), b: both}) for n in nests]
            b = both
        result.append(b)
    return tuple(result), nests


def _mergeable(nest: Nest, a: Axis, b: Axis) -> bool:
    for address in nest.addresses:
        outer, inner = address.step(a), address.step(b)
        if outer is None or inner is None or outer != inner * b.extent:
            return False
    return not any(_outside_addresses(e, axis) for e in nest.expressions for axis in (a, b))


def _outside_addresses(e: Expression, axis: Axis) -> bool:
    if isinstance(e, Load):
        return False
    return e == axis or any(_outside_addresses(x, axis) for x in children(e))


def _renamed(nest: Nest, axes: dict[Axis, Expression]) -> Nest:
    address = Linear.of(substitute(nest.address.expression(), axes))
    value, initial = (e and _normal(substitute(e, axes)) for e in (nest.value, nest.initial))
    assert value is not None
    return replace(nest, address=address, value=value, initial=initial)


def _normal(e: Expression) -> Expression:
    """Addresses as plain sums again."""
    e = map_children(e, _normal)
    return Load(e.buffer, (Linear.of(e.indices[0]).expression(),), e.type) if isinstance(e, Load) else e
