"""Pooling over two dimensions (one dimension is height 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Value
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
from compiler.ir.types import TensorType, f32, quantized
from compiler.loops.expression import Axis, Constant, Expression, Rescale, Select, clamp
from compiler.loops.form import Buffer, LoopForm, Reduction, Role, Stage
from compiler.numerics.convolve import Window, taps
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import nearest_factors, requantize
from compiler.numerics.quantization import QuantizedType
from compiler.ops.accumulation import Accumulator, spread
from compiler.ops.contraction import Clamp
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.layout import channels_first, channels_last
from compiler.ops.shape import activation_buffers
from compiler.ops.window import import_window, with_partial_windows

I32 = ElementType.I32
Pads = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class MaxPool2D(Op):
    """Largest value in each window of [N, H, W, C]; pads (top, left, bottom, right) never win."""

    mnemonic: ClassVar[str] = "max_pool2d"
    keeps_quantization: ClassVar[bool] = True
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.stride, self.dilation, self.pads)

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        return (x.with_shape(_pooled(x, self.window)),)

    def of_channels(self, x: TensorType, count: int) -> Op | None:
        return self

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (self._largest(arrays[0], -np.inf),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (self._largest(arrays[0], inputs[0].element.low),)

    def _largest(self, x: Array, outside: float) -> Array:
        padded = _padded(x, self.pads, outside)
        return np.maximum.reduce([tap for _, _, tap in taps(padded, self.window)])

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        lowest = Constant(x.element.low, x.element)
        axes, over = y.axes(), (Axis("kh", self.kernel[0]), Axis("kw", self.kernel[1]))
        inside, load = _tap(x, self.window, axes, over)
        value = load if inside is None else Select(inside, load, lowest)
        stage = Stage("output", axes, value, over, Reduction.MAX, lowest)
        return Lowered(LoopForm("max_pool2d", (x, y), (stage,)), (0,))


@dataclass(frozen=True, slots=True)
class AveragePool2D(Op):
    """Mean of each window of [N, H, W, C], over the image and those pads that are counted (as zeros).

    pads, counted: top, left, bottom, right; counted is at most pads. clamp, to: as in Conv2D; codes
    need `to`. The divisor is folded into the requantize factor, per position where it differs. Sums are
    held as `Accumulator` says.
    """

    mnemonic: ClassVar[str] = "average_pool2d"
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    counted: Pads = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    clamp: Clamp = None
    to: QuantizedType | None = None

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.stride, self.dilation, self.pads)

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        counted = all(c <= p for c, p in zip(self.counted, self.pads, strict=True))
        expect(counted, f"counted pads {list(self.counted)} exceed the pads {list(self.pads)}")
        return (averaged_type(x, _pooled(x, self.window), self.to),)

    def _counts(self, x: TensorType) -> Array:
        """Elements that each window's mean is over, [OH, OW], or [1, 1] where it is the same everywhere."""
        counts = _elements(x, self.window, self.counted)
        return counts[:1, :1] if np.all(counts == counts[0, 0]) else counts

    def of_channels(self, x: TensorType, count: int) -> Op | None:
        return self

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        padded = _padded(arrays[0], self.pads, 0)
        total = np.add.reduce([tap for _, _, tap in taps(padded, self.window)])
        result = total / self._counts(inputs[0])[..., None].astype(total.dtype)
        return (result if self.clamp is None else np.clip(result, *self.clamp),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        assert self.to is not None
        padded = _padded(arrays[0].astype(np.int64) - inputs[0].codes.zero_point, self.pads, 0)
        total = np.add.reduce([tap for _, _, tap in taps(padded, self.window)])
        multiplier, shift = (f[..., None] for f in self._factors(inputs[0]))
        low, high = self.to.clamp_codes(self.clamp)
        narrow = self._accumulator(inputs[0]).narrow(total)
        result = requantize(narrow, multiplier, shift, self.to.zero_point, low, high)
        return (result.astype(self.to.element.dtype),)

    def _accumulator(self, x: TensorType) -> Accumulator:
        return Accumulator.holding(self.kernel[0] * self.kernel[1] * spread(x.element))

    def _factors(self, x: TensorType) -> tuple[Array, Array]:
        """Multipliers and shifts in the shape of `_counts`."""
        assert self.to is not None
        unit = x.codes.scale * (1 << self._accumulator(x).drop)
        counts = self._counts(x)
        multiplier, shift = nearest_factors(unit / (self.to.scale * counts.reshape(-1)))
        return multiplier.reshape(counts.shape), shift.reshape(counts.shape)

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return Quantized(replace(self, to=to[0]))

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """multiplier, shift: [OH, OW] or [1, 1]; parameters = (zero point in, zero point out, low, high)."""
        assert self.to is not None
        of = inputs[0].type
        x, y = activation_buffers(inputs, outputs)
        factors = dict(zip(("multiplier", "shift"), self._factors(of), strict=True))
        multiplier, shift = (Buffer(n, f.shape, I32, Role.CONSTANT) for n, f in factors.items())
        p = Buffer("parameters", (4,), I32, Role.CONSTANT)
        held = self._accumulator(of)
        total = Buffer("total", y.shape, held.element, Role.SCRATCH)
        axes, over = y.axes(), (Axis("kh", self.kernel[0]), Axis("kw", self.kernel[1]))
        inside, load = _tap(x, self.window, axes, over)
        centred, zero = (load.cast(I32) - p.load(0)).cast(held.element), Constant(0, held.element)
        value = centred if inside is None else Select(inside, centred, zero)
        place = axes[1:3] if factors["shift"].size > 1 else (0, 0)
        rescaled = Rescale(held.narrowed(total.load(*axes)), multiplier.load(*place), shift.load(*place))
        result = clamp(rescaled + p.load(1), p.load(2), p.load(3)).cast(y.element)
        stages = (Stage("total", axes, value, over, initial=zero), Stage("output", axes, result))
        form = LoopForm("average_pool2d", (x, multiplier, shift, p, y, total), stages)
        low, high = self.to.clamp_codes(self.clamp)
        parameters = np.array([of.codes.zero_point, self.to.zero_point, low, high], np.int32)
        return Lowered(form, (0,), {**factors, "parameters": parameters})


def averaged_type(x: TensorType, shape: tuple[int, ...], to: QuantizedType | None) -> TensorType:
    """Type of a mean: f32 from f32, `to` from codes of one scale."""
    if x.element is ElementType.F32:
        expect(to is None, f"a mean of {x} cannot give {to}")
        return f32(*shape)
    expect(x.is_quantized and x.codes.quantization.axis is None, f"a mean takes codes of one scale, not {x}")
    expect(to is not None, f"an integer mean of {x} needs the type of its result")
    assert to is not None
    return quantized(shape, to)


def _pooled(x: TensorType, window: Window) -> tuple[int, ...]:
    expect(x.rank == 4, f"pooling takes [N, H, W, C], not {x}")
    height, width = window.output(x.shape[1], x.shape[2])
    expect(height > 0 and width > 0, f"the window {list(window.kernel)} does not fit once into {x}")
    empty = _elements(x, window, (0, 0, 0, 0)).min() == 0
    expect(not empty, f"pads {list(window.pads)}: a window {list(window.kernel)} sees nothing of {x}")
    return (x.shape[0], height, width, x.shape[3])


def _elements(x: TensorType, window: Window, counted: Pads) -> Array:
    """How many elements of the image and of the counted pads each window sees, [OH, OW]."""
    counts = np.ones((1, 1), np.int64)
    for d in (0, 1):
        outputs = window.output(x.shape[1], x.shape[2])[d]
        starts = np.arange(outputs) * window.stride[d] - window.pads[d]
        places = starts[:, None] + np.arange(window.kernel[d]) * window.dilation[d]
        seen = (places >= -counted[d]) & (places < x.shape[d + 1] + counted[d + 2])
        counts = counts * seen.sum(axis=1).reshape((-1, 1) if d == 0 else (1, -1))
    return counts


def _padded(x: Array, pads: Pads, value: float) -> Array:
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def _tap(
    x: Buffer, window: Window, axes: Sequence[Axis], over: Sequence[Axis]
) -> tuple[Expression | None, Expression]:
    """Whether the tap lies inside the image (None: always), and its load."""
    inside: Expression | None = None
    places: list[Expression] = []
    for d in (0, 1):
        place = axes[d + 1] * window.stride[d] + over[d] * window.dilation[d] - window.pads[d]
        places.append(place)
        last = (axes[d + 1].extent - 1) * window.stride[d] + (over[d].extent - 1) * window.dilation[d]
        if window.pads[d] or last - window.pads[d] >= x.shape[d + 1]:
            within = place.within(0, x.shape[d + 1])
            inside = within if inside is None else inside.both(within)
    return inside, x.load(axes[0], *places, axes[3])


@imports("MaxPool")
def import_max_pool(node: OnnxNode) -> Results:
    """Without the output Indices."""
    if len(node.outputs) > 1 and node.outputs[1]:
        raise node.error("the output Indices is not supported", "use the pooled values only")
    pixels, window, _ = _import_pool(node)
    y = node.emit(MaxPool2D(window.kernel, window.stride, window.pads, window.dilation), pixels)
    return (channels_first(node, y, node.value(0).type.rank),)


@imports("AveragePool")
def import_average_pool(node: OnnxNode) -> Results:
    """Pads that ceil_mode adds are never counted."""
    pixels, window, explicit = _import_pool(node)
    counted = explicit if node.integer("count_include_pad", 0) else (0, 0, 0, 0)
    op = AveragePool2D(window.kernel, window.stride, window.pads, counted, window.dilation)
    return (channels_first(node, node.emit(op, pixels), node.value(0).type.rank),)


def _import_pool(node: OnnxNode) -> tuple[Value, Window, Pads]:
    """Channels-last input, window with ceil_mode resolved, and the pads before that."""
    pixels = channels_last(node, node.value(0))
    window = import_window(node, pixels, node.tuple_of("kernel_shape"))
    explicit = window.pads
    if node.integer("ceil_mode", 0):
        window = with_partial_windows(window, pixels.type.shape[1], pixels.type.shape[2])
    return pixels, window, explicit
