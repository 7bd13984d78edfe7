"""What operators of several operands share: broadcasting, and buffers of inputs that may be constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.ir.diagnostics import TypeMismatchError
from compiler.ir.graph import Value
from compiler.ir.op import Lowered, Op, Operand, Quantized, QuantizedOperand, Refusal, Types
from compiler.ir.types import Shape, TensorType, quantized
from compiler.loops.expression import Axis, Constant, Expression
from compiler.loops.form import Buffer, LoopForm, Role, Stage
from compiler.numerics.element import Array
from compiler.numerics.quantization import QuantizedType, quantize_array
from compiler.ops.importing import Input, OnnxNode
from compiler.ops.shape import Reshape


@dataclass(frozen=True, slots=True)
class Sources:
    """The buffers that a form reads, one per operand of the node.

    buffers: CONSTANT where the operand is known at compile time, else INPUT. inputs and constants: what
    `Lowered` wants to know of them.
    """

    buffers: tuple[Buffer, ...]
    inputs: tuple[int, ...]
    constants: Mapping[str, Array]

    @classmethod
    def of(cls, operands: Sequence[Operand], names: Sequence[str]) -> Sources:
        buffers: list[Buffer] = []
        for name, o in zip(names, operands, strict=True):
            role = Role.INPUT if o.constant is None else Role.CONSTANT
            buffers.append(Buffer(name, o.type.shape, o.type.element, role, o.strides))
        return cls(
            tuple(buffers),
            tuple(i for i, o in enumerate(operands) if o.constant is None),
            {n: o.constant for n, o in zip(names, operands, strict=True) if o.constant is not None},
        )


def output_buffer(output: Operand) -> Buffer:
    """The buffer "output" of a node's only result."""
    return Buffer("output", output.type.shape, output.type.element, Role.OUTPUT, output.strides)


def broadcast_shape(inputs: Types) -> Shape:
    """numpy's common shape. Errors: TypeMismatchError that names the inputs."""
    try:
        return tuple(int(d) for d in np.broadcast_shapes(*(x.shape for x in inputs)))
    except ValueError:
        names = " and ".join(str(x) for x in inputs)
        raise TypeMismatchError(f"{names} cannot be broadcast to one shape") from None


def load_broadcast(buffer: Buffer, axes: Sequence[Axis]) -> Expression:
    """The element of `buffer` that stands at `axes` of the broadcast result."""
    own = axes[len(axes) - len(buffer.shape) :]
    return buffer.load(*(Constant(0) if n == 1 else a for n, a in zip(buffer.shape, own, strict=True)))


def integer_or_refusal(
    op: Op, inputs: Sequence[QuantizedOperand], constants: Mapping[int, tuple[TensorType, Array]]
) -> Quantized | Refusal:
    """`op` over its quantized inputs, or inference's reason why it cannot be."""
    types = [constants[i][0] if i in constants else o.type for i, o in enumerate(inputs)]
    try:
        op.infer(types)
    except TypeMismatchError as error:
        return Refusal(str(error))
    return Quantized(op, constants)


def constants_in(
    inputs: Sequence[QuantizedOperand], of: QuantizedType
) -> dict[int, tuple[TensorType, Array]]:
    """The constant inputs of an operator that keeps quantizations, as codes of its result's type `of`, which
    the computed inputs are requantized to."""
    return {
        i: (quantized(o.type.shape, of), quantize_array(o.constant, of))
        for i, o in enumerate(inputs)
        if o.constant is not None
    }


def lower_binary(
    name: str,
    value: Callable[[Expression, Expression], Expression],
    inputs: Sequence[Operand],
    outputs: Sequence[Operand],
    parameters: Buffer | None = None,
    numbers: Array | None = None,
) -> Lowered:
    """The loop nest of an element-wise operator of two broadcast operands.

    value: the result's element from the operands' elements. parameters, numbers: a constant operand that
    `value` reads, and its contents.
    """
    sources, y = Sources.of(inputs, ("a", "b")), output_buffer(outputs[0])
    axes = y.axes()
    a, b = (load_broadcast(buffer, axes) for buffer in sources.buffers)
    first, constants = sources.buffers[0], dict(sources.constants)
    in_place = first.role is Role.INPUT and (first.shape, first.element) == (y.shape, y.element)
    buffers = (*sources.buffers, y)
    if parameters is not None and numbers is not None:
        buffers = (*sources.buffers, parameters, y)
        constants[parameters.name] = numbers
    form = LoopForm(name, buffers, (Stage("output", axes, value(a, b)),), in_place)
    return Lowered(form, sources.inputs, constants)


def largest_difference(x: TensorType) -> int:
    """Largest magnitude of a code less its zero point."""
    return max(x.element.high - x.codes.zero_point, x.codes.zero_point - x.element.low)


def reals(node: OnnxNode, array: Array) -> Array:
    """A known input as float32. Errors: NodeError for integers, which have no meaning as data here."""
    if not np.issubdtype(array.dtype, np.floating):
        raise node.error(f"{array.dtype} tensors are not supported as data", "cast the tensor to float32")
    return array.astype(np.float32)


def aligned_operands(node: OnnxNode, *inputs: Input) -> list[Value]:
    """The given inputs (or all of them) as values of one rank: the shorter get axes of extent 1 in front,
    so that a transpose of the result is one transpose of every operand."""
    present = [x for x in inputs or node.inputs if x is not None]
    shapes = [x.type.shape if isinstance(x, Value) else x.shape for x in present]
    rank = max(map(len, shapes))
    values: list[Value] = []
    for x, shape in zip(present, shapes, strict=True):
        full = (1,) * (rank - len(shape)) + shape
        if not isinstance(x, Value):
            values.append(node.constant(reals(node, x).reshape(full)))
        else:
            values.append(x if full == shape else node.emit(Reshape(full), x))
    return values
