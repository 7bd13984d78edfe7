"""Long reductions split: a loop form as forms that run one after another, for processors of many threads.

A softmax of one row has a single index to hand out. Here each long reduction becomes a phase that reduces
chunks, whose results pass through memory to the later phases; what combines them, and other values that a
stage needs, is computed again by whoever needs it. Integer sums and maxima do not depend on the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt, prod

from compiler.loops.expression import Axis, Constant, Expression, Load, Select
from compiler.loops.form import Buffer, LoopForm, Reduction, Role, Stage
from compiler.loops.rewrite import depends_on, loads, map_children, substitute, walk
from compiler.numerics.element import ElementType

# Shorter reductions stay as they are, and are computed again where they are needed.
_LONG = 64


@dataclass(frozen=True, slots=True)
class Phases:
    """forms: in order; all but the last give a buffer that later ones read. passed: those buffers."""

    forms: tuple[LoopForm, ...]
    passed: tuple[Buffer, ...]


def split_reductions(form: LoopForm) -> Phases | None:
    """None where no reduction is long, where floats are added up, or where values depend on each other so
    that they cannot be computed again."""
    long = [s for s in form.stages if prod(a.extent for a in s.over) >= _LONG]
    floats = any(e.element is ElementType.F32 for s in form.stages for e in walk(s.value))
    if not long or floats or form.in_place or not _plain(form):
        return None
    try:
        return _Splitting(form).phases()
    except _EntangledError:
        return None


class _EntangledError(Exception):
    """A value would have to be computed again within a reduction."""


def _plain(form: LoopForm) -> bool:
    """Whether each scratch buffer is written by one stage, as a whole."""
    written = [s.output for s in form.stages]
    return all(
        written.count(s.output) == 1 and s.origin is None
        for s in form.stages
        if form.buffer(s.output).role is Role.SCRATCH
    )


class _Splitting:
    def __init__(self, form: LoopForm) -> None:
        self.form = form
        self.scratch: dict[str, Stage] = {}  # what is computed again, by the buffer's name
        self.passed: dict[str, Buffer] = {}
        self.done: list[LoopForm] = []

    def phases(self) -> Phases:
        for stage in self.form.stages:
            stage = replace(stage, value=self._inlined(stage.value))
            if prod(a.extent for a in stage.over) >= _LONG:
                stage = self._in_chunks(stage)
            if self.form.buffer(stage.output).role is Role.SCRATCH:
                self.scratch[stage.output] = stage
            else:
                self._phase(stage, self.form.buffer(stage.output))
        return Phases(tuple(self.done), tuple(self.passed.values()))

    def _inlined(self, e: Expression) -> Expression:
        """Loads of scratch that no reduction gave, replaced by what was stored."""
        e = map_children(e, self._inlined)
        stage = self.scratch.get(e.buffer) if isinstance(e, Load) else None
        if stage is None or stage.over:
            return e
        assert isinstance(e, Load)
        return substitute(stage.value, dict(zip(stage.axes, e.indices, strict=True)))

    def _in_chunks(self, stage: Stage) -> Stage:
        """A phase that reduces chunks; returns the stage that combines them."""
        assert stage.initial is not None
        along = max(stage.over, key=lambda a: a.extent)
        total = prod(a.extent for a in stage.over)
        length = max(1, along.extent // isqrt(total))
        chunk = Axis("chunk", -(-along.extent // length))
        inner = Axis(along.name, length)
        index = chunk * length + inner
        # A maximum may take its initial value more than once, a sum may not.
        is_sum = stage.reduction is Reduction.SUM
        neutral = Constant(0, stage.value.element) if is_sum else stage.initial
        value = substitute(stage.value, {along: index})
        if chunk.extent * length > along.extent:
            value = Select(index.less(along.extent), value, neutral)
        of = self.form.buffer(stage.output)
        name = f"{stage.output}_parts"
        shape = (*(a.extent for a in stage.axes), chunk.extent)
        parts = self.passed[name] = Buffer(name, shape, of.element, Role.SCRATCH)
        over = tuple(inner if a is along else a for a in stage.over)
        partial = replace(
            stage,
            output=name,
            axes=(*stage.axes, chunk),
            value=value,
            over=over,
            initial=neutral,
            origin=None,
        )
        self._phase(partial, parts)
        return replace(stage, value=parts.load(*stage.axes, chunk), over=(chunk,))

    def _phase(self, stage: Stage, result: Buffer) -> None:
        stages, own = self._with_needed(stage)
        read = {x.buffer for s in stages for e in _expressions(s) for x in loads(e)}
        given = [b for b in self.form.buffers if b.name in read and b.role is not Role.SCRATCH]
        passed = [replace(b, role=Role.INPUT) for n, b in self.passed.items() if n in read]
        buffers = (*given, *passed, replace(result, role=Role.OUTPUT), *own)
        self.done.append(LoopForm(f"{self.form.name}_{len(self.done)}", buffers, tuple(stages)))

    def _with_needed(self, stage: Stage) -> tuple[list[Stage], list[Buffer]]:
        """The stage, behind those that compute anew for each of its elements what it reads of reductions."""
        before: list[Stage] = []
        own: list[Buffer] = []
        renamed: dict[Load, Load] = {}
        for load in dict.fromkeys(x for e in _expressions(stage) for x in loads(e)):
            source = self.scratch.get(load.buffer)
            if source is None:
                continue
            if any(depends_on(i, a) for i in load.indices for a in stage.over):
                raise _EntangledError
            name = f"{load.buffer}_{stage.output}_{len(renamed)}"
            again, more = self._with_needed(_at(source, name, stage.axes, load.indices))
            buffer = Buffer(name, tuple(a.extent for a in stage.axes), load.element, Role.SCRATCH)
            before += again
            own += [*more, buffer]
            renamed[load] = buffer.load(*stage.axes)
        initial = None if stage.initial is None else _renamed(stage.initial, renamed)
        return [*before, replace(stage, value=_renamed(stage.value, renamed), initial=initial)], own


def _at(source: Stage, name: str, axes: tuple[Axis, ...], indices: Sequence[Expression]) -> Stage:
    """The stage that stores the elements at `indices` of what `source` computes. The axes that it reduces
    over get names that nobody has."""
    over = tuple(Axis(f"{name}_{a.name}", a.extent) for a in source.over)
    mapping: dict[Axis, Expression] = dict(zip((*source.axes, *source.over), (*indices, *over), strict=True))
    assert source.initial is not None
    return replace(
        source,
        output=name,
        axes=axes,
        over=over,
        value=substitute(source.value, mapping),
        initial=substitute(source.initial, mapping),
        origin=None,
    )


def _renamed(e: Expression, renamed: Mapping[Load, Load]) -> Expression:
    if isinstance(e, Load) and e in renamed:
        return renamed[e]
    return map_children(e, lambda x: _renamed(x, renamed))


def _expressions(stage: Stage) -> tuple[Expression, ...]:
    return (stage.value,) if stage.initial is None else (stage.value, stage.initial)
