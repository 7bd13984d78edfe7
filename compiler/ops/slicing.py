"""Operators that cut, join, extend and repeat tensors; no element changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Literal

import numpy as np

from compiler.ir.op import (
    Arrays,
    Lowered,
    Op,
    Operand,
    Quantized,
    QuantizedOperand,
    Refusal,
    Types,
    expect,
)
from compiler.ir.types import Shape, TensorType
from compiler.loops.expression import Axis, Expression, clamp, maximum, minimum
from compiler.loops.form import Buffer, LoopForm, Role, Stage
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType, quantize_array
from compiler.ops.operands import Sources, constants_in, load_broadcast, output_buffer
from compiler.ops.shape import activation_buffers, unpermuted

I32 = ElementType.I32


class _Move(Op):
    """Moves elements of one input: the same on floats and on codes."""

    __slots__ = ()
    keeps_quantization: ClassVar[bool] = True

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return self.float_reference(inputs, arrays)


@dataclass(frozen=True, slots=True)
class Concat(Op):
    """The inputs one behind the other along `axis`; all have one quantization."""

    mnemonic: ClassVar[str] = "concat"
    keeps_quantization: ClassVar[bool] = True
    axis: int

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        first = inputs[0]
        expect(0 <= self.axis < first.rank, f"{first} has no axis {self.axis}")
        expect(_one_scale(first), f"cannot concat per-channel {first}")
        for x in inputs[1:]:
            same = x.element is first.element and x.quantization == first.quantization
            expect(same, f"concat of {first} and {x}: all inputs need one quantization")
            expect(
                self._others(x) == self._others(first),
                f"concat of {first} and {x} along axis {self.axis}: the other extents differ",
            )
        total = sum(x.shape[self.axis] for x in inputs)
        return (first.with_shape((*first.shape[: self.axis], total, *first.shape[self.axis + 1 :])),)

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        return Concat(permutation[self.axis])

    def _others(self, x: TensorType) -> Shape:
        """The extents that all inputs share."""
        return x.shape[: self.axis] + x.shape[self.axis + 1 :]

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (np.concatenate(arrays, self.axis),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return self.float_reference(inputs, arrays)

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return Quantized(self, constants_in(inputs, to[0]))

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """One stage per input."""
        sources = Sources.of(inputs, [f"input{i}" for i in range(len(inputs))])
        stages: list[Stage] = []
        offset = 0
        for x in sources.buffers:
            origin = tuple(offset if d == self.axis else 0 for d in range(len(x.shape)))
            stages.append(Stage("output", x.axes(), x.load(*x.axes()), origin=origin))
            offset += x.shape[self.axis]
        form = LoopForm("concat", (*sources.buffers, output_buffer(outputs[0])), tuple(stages))
        return Lowered(form, sources.inputs, sources.constants)


@dataclass(frozen=True, slots=True)
class Slice(_Move):
    """output[i] = input[begin + i * step] on every axis; steps may be negative."""

    mnemonic: ClassVar[str] = "slice"
    begin: tuple[int, ...]
    shape: Shape
    step: tuple[int, ...]

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(_one_scale(x), f"cannot slice per-channel {x}")
        ranks = {x.rank, len(self.begin), len(self.shape), len(self.step)}
        expect(len(ranks) == 1, f"slice of {len(self.begin)} axes from {x}")
        for d, (begin, count, step) in enumerate(zip(self.begin, self.shape, self.step, strict=True)):
            last = begin + (count - 1) * step
            inside = count > 0 and step != 0 and min(begin, last) >= 0 and max(begin, last) < x.shape[d]
            expect(inside, f"slice of {count} from {begin} by {step} leaves axis {d} of {x}")
        return (x.with_shape(self.shape),)

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        return Slice(*(unpermuted(t, permutation) for t in (self.begin, self.shape, self.step)))

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        index = [
            begin + np.arange(count) * step
            for begin, count, step in zip(self.begin, self.shape, self.step, strict=True)
        ]
        return (arrays[0][np.ix_(*index)],)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        axes = y.axes()
        source = [axis * step + begin for axis, begin, step in zip(axes, self.begin, self.step, strict=True)]
        form = LoopForm("slice", (x, y), (Stage("output", axes, x.load(*source)),))
        return Lowered(form, (0,))


class PadMode(Enum):
    CONSTANT = "constant"
    EDGE = "edge"
    REFLECT = "reflect"  # without repeating the edge


_NUMPY_MODES: dict[PadMode, Literal["edge", "reflect"]] = {PadMode.EDGE: "edge", PadMode.REFLECT: "reflect"}


@dataclass(frozen=True, slots=True)
class Pad(_Move):
    """Elements in front of and behind each axis. value: real, for the mode CONSTANT; as a code it is rounded
    and clamped (0 is the zero point, exactly)."""

    mnemonic: ClassVar[str] = "pad"
    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: PadMode = PadMode.CONSTANT
    value: float = 0.0

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(_one_scale(x), f"cannot pad per-channel {x}")
        expect(len(self.before) == len(self.after) == x.rank, f"pads of {len(self.before)} axes for {x}")
        expect(min((*self.before, *self.after), default=0) >= 0, f"negative pads for {x}: slice it first")
        for d, most in enumerate(map(max, self.before, self.after)):
            fits = self.mode is not PadMode.REFLECT or most < x.shape[d]
            expect(fits, f"cannot reflect {most} elements of axis {d} of {x}")
        sums = zip(self.before, x.shape, self.after, strict=True)
        return (x.with_shape(tuple(b + n + a for b, n, a in sums)),)

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        before, after = (unpermuted(t, permutation) for t in (self.before, self.after))
        return replace(self, before=before, after=after)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (self._padded(arrays[0], self.value),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (self._padded(arrays[0], self._fill(inputs[0])),)

    def _padded(self, x: Array, fill: Array | float) -> Array:
        pads = list(zip(self.before, self.after, strict=True))
        if self.mode is PadMode.CONSTANT:
            return np.pad(x, pads, constant_values=fill)
        return np.pad(x, pads, mode=_NUMPY_MODES[self.mode])

    def _fill(self, x: TensorType) -> Array:
        """The value as an element of x."""
        value = np.array(self.value, np.float32)
        return quantize_array(value, x.codes) if x.is_quantized else value

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        if self.mode is not PadMode.CONSTANT:
            axes = y.axes()
            source = [self._source(d, axis, x.shape[d]) for d, axis in enumerate(axes)]
            form = LoopForm(f"pad_{self.mode.value}", (x, y), (Stage("output", axes, x.load(*source)),))
            return Lowered(form, (0,))
        fill = Buffer("fill", (1,), x.element, Role.CONSTANT)
        inner = Stage("output", x.axes(), x.load(*x.axes()), origin=self.before)
        form = LoopForm("pad", (x, fill, y), (*self._border(x, y, fill.load(0)), inner))
        return Lowered(form, (0,), {"fill": self._fill(inputs[0].type).reshape(1)})

    def _border(self, x: Buffer, y: Buffer, value: Expression) -> list[Stage]:
        """Two boxes for each padded axis d: as long as the input on the axes before d, as the output on those
        behind it. They are disjoint and, with the input, cover the output."""
        stages: list[Stage] = []
        for d, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            for start, count in ((0, before), (before + x.shape[d], after)):
                if count:
                    shape = (*x.shape[:d], count, *y.shape[d + 1 :])
                    origin = (*self.before[:d], start, *(0 for _ in y.shape[d + 1 :]))
                    axes = tuple(Axis(f"i{i}", extent) for i, extent in enumerate(shape))
                    stages.append(Stage("output", axes, value, origin=origin))
        return stages

    def _source(self, d: int, axis: Axis, extent: int) -> Expression:
        """Where the element at `axis` of the output comes from on axis d of the input."""
        if not self.before[d] and not self.after[d]:
            return axis
        position = axis - self.before[d]
        if self.mode is PadMode.EDGE:
            return clamp(position, 0, extent - 1)
        # A triangle wave: |position|, then folded at the last element.
        return minimum(maximum(position, 0 - position), 2 * (extent - 1) - position)


@dataclass(frozen=True, slots=True)
class Broadcast(_Move):
    """Axes of extent 1, and absent axes in front, repeated to `shape`."""

    mnemonic: ClassVar[str] = "broadcast"
    shape: Shape

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(_one_scale(x), f"cannot broadcast per-channel {x}")
        own = self.shape[len(self.shape) - x.rank :]
        fits = x.rank <= len(self.shape) and all(a in (1, b) for a, b in zip(x.shape, own, strict=True))
        expect(fits, f"{x} cannot be broadcast to {list(self.shape)}")
        return (x.with_shape(self.shape),)

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        same_rank = len(permutation) == len(self.shape)
        return Broadcast(unpermuted(self.shape, permutation)) if same_rank else None

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (np.broadcast_to(arrays[0], self.shape).copy(),)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        form = LoopForm("broadcast", (x, y), (Stage("output", y.axes(), load_broadcast(x, y.axes())),))
        return Lowered(form, (0,))


@dataclass(frozen=True, slots=True)
class Gather(_Move):
    """output[…, i, …] = input[…, indices[i], …] along `axis`."""

    mnemonic: ClassVar[str] = "gather"
    axis: int
    indices: tuple[int, ...]

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(_one_scale(x), f"cannot gather per-channel {x}")
        expect(0 <= self.axis < x.rank, f"{x} has no axis {self.axis}")
        extent = x.shape[self.axis]
        expect(
            len(self.indices) > 0 and min(self.indices) >= 0 and max(self.indices) < extent,
            f"indices leave axis {self.axis} of {x}",
        )
        return (x.with_shape((*x.shape[: self.axis], len(self.indices), *x.shape[self.axis + 1 :])),)

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        return replace(self, axis=permutation[self.axis])

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (np.take(arrays[0], self.indices, self.axis),)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        indices = Buffer("indices", (len(self.indices),), I32, Role.CONSTANT)
        axes = y.axes()
        source = [indices.load(a) if d == self.axis else a for d, a in enumerate(axes)]
        form = LoopForm("gather", (x, indices, y), (Stage("output", axes, x.load(*source)),))
        return Lowered(form, (0,), {"indices": np.array(self.indices, np.int32)})


def _one_scale(x: TensorType) -> bool:
    return x.quantization is None or x.quantization.axis is None
