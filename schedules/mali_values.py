"""Expressions of the loop language as OpenCL C, one lane or a vector of lanes at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from compiler.loops.expression import (
    Axis,
    Binary,
    BinaryOp,
    Cast,
    Constant,
    Expression,
    Load,
    Rescale,
    Select,
)
from compiler.loops.rewrite import Linear, loads
from compiler.numerics.element import ElementType
from schedules.mali_code import Code, Value, literal, type_of

I32, I64, BOOL = ElementType.I32, ElementType.I64, ElementType.BOOL

_OPERATORS = {
    BinaryOp.ADD: "+",
    BinaryOp.SUB: "-",
    BinaryOp.MUL: "*",
    BinaryOp.SHIFT_RIGHT: ">>",
    BinaryOp.SHIFT_LEFT: "<<",
    BinaryOp.AND: "&",
}
_COMPARISONS = {BinaryOp.LESS: "<", BinaryOp.EQUAL: "=="}


@dataclass(frozen=True, slots=True)
class Memory:
    """An array by the name of its pointer. lanewise: a variable, with an element for each lane of a vector.
    changes: the kernel itself writes it."""

    name: str
    element: ElementType
    lanewise: bool = False
    changes: bool = False


@dataclass(frozen=True, slots=True)
class ClLanes:
    """Where an expression is computed: the index of each axis by name, of which `vector` stands for `lanes`
    consecutive ones from the given on. lanes: 1, 2, 4, 8 or 16."""

    code: Code
    memory: Mapping[str, Memory]
    axes: Mapping[str, Value]
    vector: Axis | None = None
    lanes: int = 1

    def value(self, e: Expression) -> Value:
        match e:
            case Constant(number, element):
                return literal(int(number), element)
            case Axis():
                return self._axis(e)
            case Load():
                return self._load(e)
            case Cast(value, element):
                return self.cast(self.value(value), element)
            case Select():
                return self._select(e)
            case Rescale(value, multiplier, shift):
                return self._rescale(self.value(value), self.value(multiplier), self.value(shift))
            case Binary(op, left, right):
                return self.combine(op, self.value(left), self.value(right))
            case _:
                raise ValueError(f"no OpenCL kernel computes {type(e).__name__}")

    def store(self, name: str, address: Linear, value: Value) -> None:
        """memory[address] = value, in all lanes."""
        memory = self.memory[name]
        if memory.lanewise:
            self.code.add(f"{memory.name} = {self.spread(value, self.lanes).text};")
            return
        first, step, offsets = self._address(address)
        assert offsets is None, "a store moves by equal steps"
        if self.lanes == 1 or step == 0:
            self.code.add(f"{memory.name}[{first}] = {value.text};")
            return
        value = self.spread(value, self.lanes)
        if step == 1:
            self.code.add(f"vstore{self.lanes}({value.text}, 0, {memory.name} + {first});")
            return
        for lane in range(self.lanes):
            self.code.add(f"{memory.name}[{first} + {lane * step}] = {value.lane(lane)};")

    def cast(self, value: Value, element: ElementType) -> Value:
        if value.element is element:
            return value
        text = value.text
        if value.element is BOOL and value.lanes > 1:
            text = f"-{text}"  # true is -1 in a lane
        return self.code.let(_converted(text, element, value.lanes), element, value.lanes)

    def spread(self, value: Value, lanes: int) -> Value:
        if value.lanes == lanes:
            return value
        text = f"-{value.text}" if value.element is BOOL else value.text
        return self.code.let(f"({type_of(value.element, lanes)})({text})", value.element, lanes)

    def combine(self, op: BinaryOp, a: Value, b: Value) -> Value:
        lanes, element = max(a.lanes, b.lanes), a.element
        a, b = self.spread(a, lanes), self.spread(b, lanes)
        let = self.code.let
        if op is BinaryOp.BOTH:
            return let(f"{a.text} & {b.text}", BOOL, lanes)
        if op in _COMPARISONS:
            compared = f"{a.text} {_COMPARISONS[op]} {b.text}"
            narrow = lanes > 1 and element not in (I32, BOOL)
            return let(_converted(f"({compared})", I32, lanes) if narrow else compared, BOOL, lanes)
        if op in (BinaryOp.MIN, BinaryOp.MAX):
            return let(f"{op.value}({a.text}, {b.text})", element, lanes)
        if op is BinaryOp.DIV:
            quotient = let(f"{a.text} / {b.text}", element, lanes)
            below = f"{a.text} - {quotient.text} * {b.text} < 0"
            sign = "-" if lanes == 1 else "+"  # true is -1 in a lane
            return let(f"{quotient.text} {sign} ({below})", element, lanes)
        return let(f"{a.text} {_OPERATORS[op]} {b.text}", element, lanes)

    def _axis(self, axis: Axis) -> Value:
        if axis.extent == 1:
            return literal(0)
        first = self.axes[axis.name]
        if axis != self.vector or self.lanes == 1:
            return first
        steps = ", ".join(map(str, range(self.lanes)))
        return self.code.let(f"(int{self.lanes})({first.text}) + (int{self.lanes})({steps})", I32, self.lanes)

    def _load(self, load: Load) -> Value:
        memory = self.memory[load.buffer]
        if memory.lanewise:
            return self.code.fresh(memory.name, memory.element, self.lanes)
        let = self.code.fresh if memory.changes else self.code.let
        first, step, offsets = self._address(Linear.of(load.indices[0]))
        if offsets is not None:
            places = [f"{memory.name}[{offsets.lane(lane)}]" for lane in range(offsets.lanes)]
            return let(
                f"({type_of(memory.element, len(places))})({', '.join(places)})", memory.element, len(places)
            )
        if self.lanes == 1 or step == 0:
            return let(f"{memory.name}[{first}]", memory.element)
        if step == 1:
            return let(f"vload{self.lanes}(0, {memory.name} + {first})", memory.element, self.lanes)
        places = [f"{memory.name}[{first} + {lane * step}]" for lane in range(self.lanes)]
        return let(
            f"({type_of(memory.element, self.lanes)})({', '.join(places)})", memory.element, self.lanes
        )

    def _address(self, address: Linear) -> tuple[str, int, Value | None]:
        """Of the first lane, the step from lane to lane; or where lanes move otherwise, all of them."""
        step, terms, vectors = 0, [str(address.constant)] if address.constant else [], []
        for atom, coefficient in address.terms:
            if atom == self.vector and self.lanes > 1:
                assert isinstance(atom, Axis)
                step = coefficient
                value = self.axes[atom.name]
            else:
                value = self.value(atom)
            if value.lanes > 1:
                vectors.append((value, coefficient))
            else:
                terms.append(value.text if coefficient == 1 else f"{value.text} * {coefficient}")
        first = self.code.let(" + ".join(terms) or "0", I32).text
        if not vectors:
            return first, step, None
        sums = [v.text if c == 1 else f"{v.text} * {c}" for v, c in vectors]
        if step:
            steps = ", ".join(str(lane * step) for lane in range(self.lanes))
            sums.append(f"(int{self.lanes})({steps})")
        return first, step, self.code.let(" + ".join([*sums, f"(int{self.lanes})({first})"]), I32, self.lanes)

    def _select(self, e: Select) -> Value:
        condition = self.value(e.condition)
        if any(True for branch in (e.when_true, e.when_false) for _ in loads(branch)):
            return self._guarded(condition, e)
        a, b = self.value(e.when_true), self.value(e.when_false)
        lanes = max(condition.lanes, a.lanes, b.lanes)
        a, b = self.spread(a, lanes), self.spread(b, lanes)
        if condition.lanes > 1:
            condition = self.spread(condition, lanes)
            if a.element not in (I32, BOOL):
                mask = _converted(condition.text, a.element, lanes)
                condition = self.code.let(mask, a.element, lanes)
        return self.code.let(f"{condition.text} ? {a.text} : {b.text}", a.element, lanes)

    def _guarded(self, condition: Value, e: Select) -> Value:
        """A branch: the condition may guard the loads."""
        if condition.lanes > 1:
            raise ValueError("a condition that differs by lane cannot guard loads")
        result = self.code.variable("chosen", None, e.element, self.lanes)
        for head, branch in ((f"if ({condition.text})", e.when_true), ("else", e.when_false)):
            with self.code.block(head):
                self.code.add(f"{result.text} = {self.spread(self.value(branch), self.lanes).text};")
        return result

    def _rescale(self, value: Value, multiplier: Value, shift: Value) -> Value:
        """floor(value * multiplier / 2**shift + 1/2) out of both halves of the 64-bit product.

        For shift = 32 + right with right > 0 floors nest: (high + 2**(right - 1)) >> right. For right = 0 the
        half is the topmost bit of the low word. A smaller shift first moves the value left by 32 - shift,
        which saturates where the result is at least 2**29, as the multiplier is at least 2**30.
        """
        lanes = max(value.lanes, multiplier.lanes, shift.lanes)
        let, of = self.code.let, type_of(I32, lanes)
        left = let(f"max(32 - {shift.text}, 0)", I32, shift.lanes)
        right = let(f"max({shift.text} - 32, 0)", I32, shift.lanes)
        v, m, by, r = (self.spread(x, lanes).text for x in (value, multiplier, left, right))
        limit = let(f"({of})(INT_MAX) >> {by}", I32, lanes).text
        moved = let(f"max(min({v}, {limit}), ~{limit}) << {by}", I32, lanes).text
        high = let(f"mul_hi({moved}, {m})", I32, lanes).text
        low_half = let(f"as_{of}((as_u{of}({moved}) * as_u{of}({m})) >> 31)", I32, lanes).text
        nested_half = let(f"(({of})(1) << {r}) >> 1", I32, lanes).text
        half = let(f"{r} == 0 ? {low_half} : {nested_half}", I32, lanes).text
        return let(f"({high} + {half}) >> {r}", I32, lanes)

    def at(self, axes: Mapping[str, Value]) -> ClLanes:
        return replace(self, axes={**self.axes, **axes})


def _converted(text: str, element: ElementType, lanes: int) -> str:
    name = type_of(element, lanes)
    return f"({name})({text})" if lanes == 1 else f"convert_{name}({text})"
