"""Random ONNX models of 1 to 8 nodes: channels-first images, with what changes layouts in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from onnx import helper

from compiler.numerics.element import Array
from tests.onnx_models import make_model

Shape = tuple[int, ...]
LARGEST = 4000  # elements of a tensor
ACTIVATIONS = (
    "Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Softplus", "Abs", "Neg",
    "Identity", "Dropout", "Erf", "Softsign",
)  # fmt: skip


@dataclass
class Model:
    """A model while it is drawn. tensors: shapes by name."""

    draw: DrawFn
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    tensors: dict[str, Shape] = field(default_factory=dict[str, Shape])
    inputs: dict[str, Shape] = field(default_factory=dict[str, Shape])
    constants: dict[str, Array] = field(default_factory=dict[str, Array])

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def chance(self, one_in: int) -> bool:
        return self.number(1, one_in) == 1

    def pick(self, wanted: Callable[[Shape], bool] = lambda _shape: True) -> str | None:
        """One of the tensors, more often a late one."""
        found = [name for name, shape in self.tensors.items() if wanted(shape)]
        if not found:
            return None
        return found[-1 - min(self.number(0, 2 * len(found) - 1), len(found) - 1)]

    def random(self, shape: Shape, scale: float = 1.0) -> str:
        """A constant of normal numbers."""
        rng = np.random.default_rng(self.number(0, 2**32 - 1))
        return self.known((rng.normal(size=shape) * scale).astype(np.float32))

    def known(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def integers(self, *values: int) -> str:
        return self.known(np.array(values, np.int64))

    def add(self, op_type: str, inputs: list[str], *shapes: Shape, **attributes: Any) -> None:
        """A node with one output per shape."""
        if any(math.prod(s) > LARGEST or 0 in s for s in shapes):
            return
        index = len(self.nodes)
        outputs = [f"t{index}_{i}" for i in range(len(shapes))]
        self.nodes.append(helper.make_node(op_type, inputs, outputs, f"{op_type}{index}", **attributes))
        self.tensors |= dict(zip(outputs, shapes, strict=True))


def is_image(shape: Shape) -> bool:
    return len(shape) in (3, 4)


def has_axes(shape: Shape) -> bool:
    return len(shape) > 0


def convolution(m: Model) -> None:
    x = m.pick(is_image)
    if x is None:
        return
    n, channels, *spatial = m.tensors[x]
    group = m.draw(st.sampled_from([1, 1, channels, *(d for d in (2, 3) if channels % d == 0)]))
    out_channels = group * m.number(1, max(1, 12 // group))
    attributes, extents = window(m, spatial)
    kernel = tuple(attributes["kernel_shape"])
    taps = channels // group * math.prod(kernel)
    operands = [x, m.random((out_channels, channels // group, *kernel), taps**-0.5)]
    if m.chance(2):
        operands.append(m.random((out_channels,)))
    m.add("Conv", operands, (n, out_channels, *extents), group=group, **attributes)


def window(m: Model, spatial: list[int], ceil_mode: bool = False) -> tuple[dict[str, Any], list[int]]:
    """Attributes of a window, and the extents that it leaves (0 where it does not fit)."""
    kernel = [m.number(1, 3) for _ in spatial]
    strides = [m.number(1, 2) for _ in spatial]
    # Pads below the kernel: every window sees something.
    pads = [m.number(0, k - 1) for k in kernel * 2]
    extents: list[int] = []
    for d, extent in enumerate(spatial):
        room = extent + pads[d] + pads[d + len(spatial)] - kernel[d]
        steps = -(-room // strides[d]) if ceil_mode else room // strides[d]
        if ceil_mode and steps * strides[d] >= extent + pads[d]:
            steps -= 1  # the last window would start behind the image
        extents.append(max(0, steps + 1) if room >= 0 else 0)
    return {"kernel_shape": kernel, "strides": strides, "pads": pads}, extents


def pool(m: Model) -> None:
    x = m.pick(is_image)
    if x is None:
        return
    n, channels, *spatial = m.tensors[x]
    if m.chance(4):
        kind = m.draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"]))
        m.add(kind, [x], (n, channels, *[1] * len(spatial)))
        return
    ceil_mode = m.chance(3)
    attributes, extents = window(m, spatial, ceil_mode)
    if m.chance(2):
        m.add("MaxPool", [x], (n, channels, *extents), ceil_mode=int(ceil_mode), **attributes)
    else:
        include = m.number(0, 1)
        # onnxruntime counts what ceil_mode adds differently from version to version.
        attributes |= {"count_include_pad": include if not ceil_mode else 0, "ceil_mode": int(ceil_mode)}
        m.add("AveragePool", [x], (n, channels, *extents), **attributes)


def activation(m: Model) -> None:
    x = m.pick()
    assert x is not None
    shape = m.tensors[x]
    if m.chance(4):
        low, high = m.draw(st.sampled_from([(0.0, 6.0), (-1.0, 1.0), (0.0, 0.5)]))
        bounds = [m.known(np.float32(low)), m.known(np.float32(high))]
        m.add("Clip", [x, *bounds], shape)
    else:
        m.add(m.draw(st.sampled_from(ACTIVATIONS)), [x], shape)


def normalization(m: Model) -> None:
    x = m.pick(lambda s: len(s) >= 2)
    if x is None:
        return
    shape = m.tensors[x]
    if m.chance(3):
        m.add("Softmax", [x], shape, axis=m.number(-len(shape), len(shape) - 1))
        return
    rng = np.random.default_rng(m.number(0, 2**32 - 1))
    parameters = [m.known(p.astype(np.float32)) for p in rng.uniform(0.5, 1.5, (4, shape[1]))]
    m.add("BatchNormalization", [x, *parameters], shape)


def pair(m: Model) -> None:
    """A residual join, a tensor with itself, or a constant per channel."""
    a = m.pick()
    assert a is not None
    shape = m.tensors[a]
    b = m.pick(lambda s: s == shape)
    assert b is not None
    if m.chance(3):
        kept = tuple(n if m.chance(2) else 1 for n in shape)
        b = m.random(kept[m.number(0, len(kept)) :])
    operands = [a, b] if m.chance(2) else [b, a]
    m.add(m.draw(st.sampled_from(["Add", "Add", "Sub", "Mul", "Min", "Max"])), operands, shape)


def matrix(m: Model) -> None:
    x = m.pick(lambda s: len(s) >= 2)
    if x is None:
        return
    *leading, k = m.tensors[x]
    n = m.number(1, 12)
    weight = m.random((k, n), k**-0.5)
    if len(leading) == 1 and m.chance(2):
        m.add("Gemm", [x, weight, m.random((n,))], (leading[0], n))
    else:
        m.add("MatMul", [x, weight], (*leading, n))


def reshape(m: Model) -> None:
    x = m.pick(has_axes)
    if x is None:
        return
    shape = m.tensors[x]
    match m.number(0, 4):
        case 0:
            axis = m.number(0, len(shape))
            m.add("Flatten", [x], (math.prod(shape[:axis]), math.prod(shape[axis:])), axis=axis)
        case 1:
            axis = m.number(0, len(shape))
            m.add("Unsqueeze", [x, m.integers(axis)], (*shape[:axis], 1, *shape[axis:]))
        case 2 if 1 in shape:
            axis = shape.index(1)
            m.add("Squeeze", [x, m.integers(axis)], shape[:axis] + shape[axis + 1 :])
        case 3 if len(shape) > 1:
            merged = (shape[0] * shape[1], *shape[2:])
            m.add("Reshape", [x, m.integers(*merged)], merged)
        case _:
            wanted = tuple(m.draw(st.permutations(shape)))
            m.add("Reshape", [x, m.integers(*wanted)], wanted)


def transpose(m: Model) -> None:
    x = m.pick(has_axes)
    if x is None:
        return
    shape = m.tensors[x]
    order = m.draw(st.permutations(range(len(shape))))
    m.add("Transpose", [x], tuple(shape[d] for d in order), perm=list(order))


def join(m: Model) -> None:
    first = m.pick(has_axes)
    if first is None:
        return
    shape = m.tensors[first]
    axis = m.number(0, len(shape) - 1)

    def others(s: Shape) -> Shape:
        return (len(s), *s[:axis], *s[axis + 1 :])

    parts = [first]
    for _ in range(m.number(1, 2)):
        part = m.pick(lambda s: others(s) == others(shape))
        assert part is not None
        parts.append(part)
    if m.chance(6):
        parts.append(m.random(shape))
    total = sum((m.tensors.get(p) or shape)[axis] for p in parts)
    signed = axis - len(shape) if m.chance(2) else axis
    m.add(
        "Concat",
        list(m.draw(st.permutations(parts))),
        (*shape[:axis], total, *shape[axis + 1 :]),
        axis=signed,
    )


def cut(m: Model) -> None:
    x = m.pick(has_axes)
    if x is None:
        return
    shape = m.tensors[x]
    axis = m.number(0, len(shape) - 1)
    extent = shape[axis]

    def part(count: int) -> Shape:
        return (*shape[:axis], count, *shape[axis + 1 :])

    match m.number(0, 2):
        case 0 if extent > 1:
            at = m.number(1, extent - 1)
            sizes = m.integers(at, extent - at)
            m.add("Split", [x, sizes], part(at), part(extent - at), axis=axis)
        case 1:
            step = m.draw(st.sampled_from([1, 2, -1]))
            begin = m.number(0, extent - 1)
            found = range(extent)[begin::step]
            end = 2**31 if step > 0 else -(2**31)
            arguments = [m.integers(v) for v in (begin, end, axis, step)]
            m.add("Slice", [x, *arguments], part(len(found)))
        case _:
            pads = [m.number(0, 2) if d == axis or m.chance(4) else 0 for d in [*range(len(shape))] * 2]
            rank = len(shape)
            wider = tuple(n + pads[d] + pads[d + rank] for d, n in enumerate(shape))
            m.add("Pad", [x, m.integers(*pads)], wider)


def reduction(m: Model) -> None:
    x = m.pick(has_axes)
    if x is None:
        return
    shape = m.tensors[x]
    axes = sorted(m.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    keep = m.number(0, 1)
    result = tuple(1 if d in axes else n for d, n in enumerate(shape) if keep or d not in axes)
    m.add("ReduceMean", [x], result, axes=axes, keepdims=keep)


def resize(m: Model) -> None:
    x = m.pick(lambda s: len(s) == 4)
    if x is None:
        return
    n, channels, height, width = m.tensors[x]
    scales = m.draw(st.sampled_from([(2, 2), (1, 3), (2, 1)]))
    known = m.known(np.array([1, 1, *scales], np.float32))
    mode = m.draw(st.sampled_from(["nearest", "linear"]))
    coordinates = "asymmetric" if mode == "nearest" else m.draw(st.sampled_from(["half_pixel", "asymmetric"]))
    shape = (n, channels, height * scales[0], width * scales[1])
    extra = {"nearest_mode": "floor"} if mode == "nearest" else {}
    m.add("Resize", [x, "", known], shape, mode=mode, coordinate_transformation_mode=coordinates, **extra)


GROWTHS: tuple[Callable[[Model], None], ...] = (
    convolution, convolution, pool, activation, activation, normalization, pair, pair, matrix, reshape,
    transpose, join, join, cut, reduction, resize,
)  # fmt: skip


@st.composite
def onnx_models(draw: DrawFn, most: int = 8) -> onnx.ModelProto:
    """A model of 1 to `most` nodes, all of which its outputs need."""
    m = Model(draw)
    for index in range(m.number(1, 2)):
        rank = draw(st.sampled_from([4, 4, 4, 3, 2]))
        m.inputs[f"x{index}"] = (m.number(1, 2), m.number(1, 9), *(m.number(1, 6) for _ in range(rank - 2)))
    m.tensors |= m.inputs
    for _ in range(m.number(1, most)):
        draw(st.sampled_from(GROWTHS))(m)
    if not m.nodes:
        m.add("Relu", ["x0"], m.inputs["x0"])
    read = {name for node in m.nodes for name in node.input}
    computed = [name for name in m.tensors if name not in m.inputs]
    outputs = [name for name in computed if name not in read or m.chance(8)]
    return make_model(m.nodes, m.inputs, outputs, m.constants, opset=draw(st.sampled_from([14, 17])))
