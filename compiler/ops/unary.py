"""Functions of one number: on codes, a table that is made once in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import numpy as np

from compiler.ir.diagnostics import TypeMismatchError
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
from compiler.ir.types import TensorType, quantized
from compiler.loops.expression import Expression, clamp, maximum
from compiler.loops.form import Buffer, LoopForm, Role, Stage
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.numerics.tables import KNOT_BITS, look_up, lookup_table
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.shape import activation_buffers

I16, I32, F32 = ElementType.I16, ElementType.I32, ElementType.F32


class Function(Enum):
    """A function of x and the parameters alpha and beta. The value of each member is its name in the IR."""

    ABS = "abs"
    CELU = "celu"  # max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))
    COS = "cos"
    ELU = "elu"  # x if x > 0 else alpha * (exp(x) - 1)
    ERF = "erf"
    EXP = "exp"
    GELU = "gelu"  # x * (1 + erf(x / sqrt(2))) / 2
    GELU_TANH = "gelu_tanh"  # its approximation by tanh
    HARD_SIGMOID = "hard_sigmoid"  # max(0, min(1, alpha * x + beta))
    HARD_SWISH = "hard_swish"  # x * max(0, min(1, x / 6 + 1/2))
    LOG = "log"
    MISH = "mish"  # x * tanh(softplus(x))
    POWER = "power"  # x**alpha
    RECIPROCAL = "reciprocal"  # alpha / x
    SELU = "selu"  # beta * (x if x > 0 else alpha * (exp(x) - 1))
    SIGMOID = "sigmoid"
    SIN = "sin"
    SOFTPLUS = "softplus"  # log(1 + exp(x))
    SOFTSIGN = "softsign"  # x / (1 + |x|)
    SQRT = "sqrt"
    SWISH = "swish"  # x * sigmoid(alpha * x)
    TANH = "tanh"


def _erf(x: Array) -> Array:
    from scipy.special import erf  # 0.1 s that only a model with erf pays

    return np.asarray(erf(x))


def _sigmoid(x: Array) -> Array:
    return np.tanh(x * 0.5) * 0.5 + 0.5


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)) * alpha)


def _celu(x: Array, alpha: float) -> Array:
    return np.maximum(x, 0) + np.minimum(np.expm1(x / alpha) * alpha, 0)


def _gelu_tanh(x: Array) -> Array:
    return x * 0.5 * (np.tanh((x * x * x * 0.044715 + x) * float(np.sqrt(2 / np.pi))) + 1)


# Each keeps the dtype of x. Arguments: x, alpha, beta.
_REAL: dict[Function, Callable[[Array, float, float], Array]] = {
    Function.ABS: lambda x, a, b: np.abs(x),
    Function.CELU: lambda x, a, b: _celu(x, a),
    Function.COS: lambda x, a, b: np.cos(x),
    Function.ELU: lambda x, a, b: _elu(x, a),
    Function.ERF: lambda x, a, b: _erf(x),
    Function.EXP: lambda x, a, b: np.exp(x),
    Function.GELU: lambda x, a, b: x * 0.5 * (_erf(x * 0.5**0.5) + 1),
    Function.GELU_TANH: lambda x, a, b: _gelu_tanh(x),
    Function.HARD_SIGMOID: lambda x, a, b: np.clip(x * a + b, 0, 1),
    Function.HARD_SWISH: lambda x, a, b: x * np.clip(x * (1 / 6) + 0.5, 0, 1),
    Function.LOG: lambda x, a, b: np.log(x),
    Function.MISH: lambda x, a, b: x * np.tanh(np.logaddexp(x, 0)),
    Function.POWER: lambda x, a, b: x**a,
    Function.RECIPROCAL: lambda x, a, b: a / x,
    Function.SELU: lambda x, a, b: _elu(x, a) * b,
    Function.SIGMOID: lambda x, a, b: _sigmoid(x),
    Function.SIN: lambda x, a, b: np.sin(x),
    Function.SOFTPLUS: lambda x, a, b: np.logaddexp(x, 0),
    Function.SOFTSIGN: lambda x, a, b: x / (np.abs(x) + 1),
    Function.SQRT: lambda x, a, b: np.sqrt(x),
    Function.SWISH: lambda x, a, b: x * _sigmoid(x * a),
    Function.TANH: lambda x, a, b: np.tanh(x),
}

# Functions that loops can compute in float32, in the very order of `_REAL`.
_FLOAT_FORMS: dict[Function, Callable[[Expression, Expression, Expression], Expression]] = {
    Function.ABS: lambda x, a, b: maximum(x, 0.0 - x),
    Function.HARD_SIGMOID: lambda x, a, b: clamp(x * a + b, 0.0, 1.0),
    Function.HARD_SWISH: lambda x, a, b: x * clamp(x * (1 / 6) + 0.5, 0.0, 1.0),
    Function.RECIPROCAL: lambda x, a, b: a / x,
    Function.SOFTSIGN: lambda x, a, b: x / (maximum(x, 0.0 - x) + 1.0),
}

# Functions into [0, 1] and into [-1, 1].
_UNIT = frozenset({Function.SIGMOID, Function.HARD_SIGMOID})
_SIGNED = frozenset({Function.TANH, Function.ERF, Function.SOFTSIGN, Function.SIN, Function.COS})


@dataclass(frozen=True, slots=True)
class Unary(Op):
    """`function` of every element.

    On codes it is a table (`compiler.numerics.tables`): exact to half a step for 8 bits; for 16 bits
    linear between 513 knots, which is coarse near a pole (log, reciprocal and roots at 0). Numbers outside
    the domain of log, roots and powers count as 0.
    """

    mnemonic: ClassVar[str] = "unary"
    may_run_in_place: ClassVar[bool] = True
    function: Function
    alpha: float = 1.0
    beta: float = 0.0
    to: QuantizedType | None = None

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        if x.element is F32:
            expect(self.to is None, f"{self.function.value} of floats {x} cannot give {self.to}")
            return (x,)
        expect(x.is_quantized, f"{self.function.value} takes floats or codes, not {x}")
        expect(x.codes.quantization.axis is None, f"{self.function.value} takes one scale, not {x}")
        expect(self.to is not None, f"{self.function.value} of codes {x} needs the type of its result")
        assert self.to is not None
        return (quantized(x.shape, self.to),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        with np.errstate(all="ignore"):
            return (_REAL[self.function](arrays[0], self.alpha, self.beta),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        assert self.to is not None
        codes = look_up(self.table(inputs[0], self.to), arrays[0], inputs[0].element)
        return (codes.astype(self.to.element.dtype),)

    def table(self, x: TensorType, to: QuantizedType) -> Array:
        """The codes of the function at each code, or knot, of x."""
        return lookup_table(self._defined, x.codes, to)

    def _defined(self, x: Array) -> Array:
        """float64, never NaN."""
        with np.errstate(all="ignore"):
            y = _REAL[self.function](x, self.alpha, self.beta)
            return np.where(np.isnan(y), _REAL[self.function](np.zeros_like(x), self.alpha, self.beta), y)

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return Quantized(replace(self, to=to[0]))

    def fixed_output(self, element: ElementType) -> QuantizedType | None:
        """[0, 1) or [-1, 1) over all codes."""
        if element is ElementType.B1:
            return None
        if self.function in _UNIT:
            return QuantizedType(element, Quantization((2.0**-element.bits,), element.low))
        if self.function in _SIGNED:
            return QuantizedType(element, Quantization((2.0 ** (1 - element.bits),)))
        return None

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        if self.to is None:
            return self._lower_float(inputs, outputs)
        x, y = activation_buffers(inputs, outputs)
        contents = self.table(inputs[0].type, self.to)
        wide = x.element is I16
        table = Buffer("table", contents.shape, I32 if wide else y.element, Role.CONSTANT)
        axes = y.axes()
        offset = x.load(*axes).cast(I32) - x.element.low
        value = _interpolate(table, offset) if wide else table.load(offset)
        in_place = x.element is y.element
        stage = Stage("output", axes, value.cast(y.element))
        form = LoopForm("table", (x, table, y), (stage,), in_place)
        return Lowered(form, (0,), {"table": contents})

    def _lower_float(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """parameters = (alpha, beta). Errors: TypeMismatchError for a transcendental function."""
        if self.function not in _FLOAT_FORMS:
            raise TypeMismatchError(f"{self.function.value} of floats has no kernel: it must be quantized")
        x, y = activation_buffers(inputs, outputs)
        p = Buffer("parameters", (2,), F32, Role.CONSTANT)
        axes = y.axes()
        value = _FLOAT_FORMS[self.function](x.load(*axes), p.load(0), p.load(1))
        form = LoopForm(self.function.value, (x, p, y), (Stage("output", axes, value),), in_place=True)
        return Lowered(form, (0,), {"parameters": np.array([self.alpha, self.beta], np.float32)})


def _interpolate(table: Buffer, offset: Expression) -> Expression:
    """`look_up` of 16 bits."""
    index, fraction = offset >> KNOT_BITS, offset & ((1 << KNOT_BITS) - 1)
    left, right = table.load(index), table.load(index + 1)
    return left + (((right - left) * fraction + (1 << (KNOT_BITS - 1))) >> KNOT_BITS)


# ONNX operators without attributes.
_PLAIN = {
    "Abs": Function.ABS,
    "Cos": Function.COS,
    "Erf": Function.ERF,
    "Exp": Function.EXP,
    "HardSwish": Function.HARD_SWISH,
    "Log": Function.LOG,
    "Mish": Function.MISH,
    "Reciprocal": Function.RECIPROCAL,
    "Sigmoid": Function.SIGMOID,
    "Sin": Function.SIN,
    "Softplus": Function.SOFTPLUS,
    "Softsign": Function.SOFTSIGN,
    "Sqrt": Function.SQRT,
    "Tanh": Function.TANH,
}


@imports(*_PLAIN)
def import_plain(node: OnnxNode) -> Results:
    return [node.emit(Unary(_PLAIN[node.op_type]), node.value(0))]


@imports("Elu")
def import_elu(node: OnnxNode) -> Results:
    return [node.emit(Unary(Function.ELU, node.number("alpha", 1.0)), node.value(0))]


@imports("Celu")
def import_celu(node: OnnxNode) -> Results:
    return [node.emit(Unary(Function.CELU, node.number("alpha", 1.0)), node.value(0))]


@imports("Selu")
def import_selu(node: OnnxNode) -> Results:
    alpha, gamma = (
        node.number("alpha", 1.67326319217681884765625),
        node.number("gamma", 1.05070102214813232421875),
    )
    return [node.emit(Unary(Function.SELU, alpha, gamma), node.value(0))]


@imports("HardSigmoid")
def import_hard_sigmoid(node: OnnxNode) -> Results:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    return [node.emit(Unary(Function.HARD_SIGMOID, alpha, beta), node.value(0))]


@imports("Swish")
def import_swish(node: OnnxNode) -> Results:
    return [node.emit(Unary(Function.SWISH, node.number("alpha", 1.0)), node.value(0))]


@imports("Gelu")
def import_gelu(node: OnnxNode) -> Results:
    match node.text("approximate", "none"):
        case "none":
            return [node.emit(Unary(Function.GELU), node.value(0))]
        case "tanh":
            return [node.emit(Unary(Function.GELU_TANH), node.value(0))]
        case other:
            raise node.error(f'approximate = "{other}" is unknown; "none" and "tanh" are')
