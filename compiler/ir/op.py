"""What an operator is. Each concrete operator is one frozen dataclass in `compiler/ops`, and everything
that the compiler knows of it stands there: attributes, inference, references, loop form, quantization.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from compiler.ir.diagnostics import TypeMismatchError
from compiler.ir.types import TensorType
from compiler.loops.form import Form
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType

Types = Sequence[TensorType]
Arrays = Sequence[Array]


@dataclass(frozen=True, slots=True)
class Operand:
    """A node's input or output as lowering sees it.

    strides: in elements, where the value is a slice of a wider buffer; None for C order.
    constant: the codes, where they are known at compile time.
    """

    type: TensorType
    strides: tuple[int, ...] | None = None
    constant: Array | None = None


@dataclass(frozen=True, slots=True)
class Lowered:
    """A loop form and what its operands are.

    inputs: for each INPUT buffer of the form (for a Convolution: its one input), the index of the node's
        input that it reads. constants: contents of the CONSTANT buffers by name (for a Convolution:
        weight, bias, multiplier, shift, parameters).
    """

    form: Form
    inputs: tuple[int, ...]
    constants: Mapping[str, Array] = field(default_factory=dict[str, Array])


@dataclass(frozen=True, slots=True)
class Quantized:
    """How a float node becomes an integer node: the new operator, and constants to put in place of the
    float constants at the given input positions (also appending one, as a bias). note: for the report, where
    the codes mean something else than the model says."""

    op: Op
    constants: Mapping[int, tuple[TensorType, Array]] = field(
        default_factory=dict[int, tuple[TensorType, Array]]
    )
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an operator stays in float: shown in the report."""

    reason: str


@dataclass(frozen=True, slots=True)
class QuantizedOperand:
    """A node's input while it is being quantized: its quantized type, or its float constant. by_channel:
    constant weights may have a scale for each output channel; else they have one."""

    type: TensorType
    constant: Array | None = None
    by_channel: bool = True


class Op(ABC):
    """An operator with its attributes. Subclasses are frozen dataclasses; their fields are the attributes
    of the IR's text, of type int, float, bool, str, None, Enum, ElementType, QuantizedType, Literal, or
    tuples of these."""

    __slots__ = ()
    mnemonic: ClassVar[str]
    # The output holds the same codes in the same order (reshape): no kernel, the output shares the memory.
    is_view: ClassVar[bool] = False
    # Input and output share one quantization, codes are only moved or compared (transpose, max pool).
    keeps_quantization: ClassVar[bool] = False
    # Output may take the memory of the first input, where their layouts are equal (element-wise).
    may_run_in_place: ClassVar[bool] = False

    # Whether an input may be an activation of b1, and the result: their bits are packed, which most operators
    # cannot walk. What else such a type must fulfil, `infer` says.
    reads_bits: ClassVar[bool] = False
    writes_bits: ClassVar[bool] = False

    @abstractmethod
    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        """Types of the outputs. Errors: TypeMismatchError that names both sides of the contradiction."""

    @abstractmethod
    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        """What the operator means on real numbers: float32 or float64 in, the same out."""

    @abstractmethod
    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        """The definition of the operator on codes: numpy integers in `element.dtype` in and out. The
        output type is `self.infer(inputs)`."""

    @abstractmethod
    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """The loop form, exactly equal to `reference`. Never called on views."""

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        """The integer operator that stands for this float operator.

        inputs: activations with the quantized types that they will have, constants with their float
        values; to: the wanted types of the outputs; weights: element type for constant weights.
        """
        if self.keeps_quantization:
            return Quantized(self)
        return Refusal(f"{self.mnemonic} has no integer form")

    def gives_bits(self) -> bool:
        """Whether the operator can requantize its sums to b1 itself."""
        return self.writes_bits and not self.keeps_quantization

    def takes_bits(self, inputs: Sequence[QuantizedOperand], weights: ElementType) -> bool:
        """Whether the integer operator can read its first input, of b1, as it is, given what `quantize` gets;
        otherwise the input is widened to i8 for it."""
        del inputs, weights
        return False

    def fixed_output(self, element: ElementType) -> QuantizedType | None:
        """The quantization that the output always has (sigmoid: [0, 1)), or None to calibrate it."""
        del element
        return None

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        """The operator f' with f(transpose(x, permutation), …) = transpose(f'(x, …), permutation), all inputs
        of full rank alike; None where the operator does not commute with permutations of its axes."""
        del permutation
        return self if self.may_run_in_place else None

    def of_channels(self, x: TensorType, count: int) -> Op | None:
        """The operator for an input like x with `count` channels (extent of the last axis).

        None where it is not, for its only activation x, a function that makes each channel of its one result
        of the same channel of x, and whose codes never fall where those of x rise.
        """
        del x, count
        return None

    def takes_strides(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
        """Whether the kernel can read or write an operand of `shape` that lies with these strides inside
        a wider buffer. Loop forms take any; views take none."""
        del shape, strides
        return not self.is_view

    def overflow(self, inputs: Types, constants: Sequence[Array | None]) -> str | None:
        """Why an accumulator of this node could leave int32, from the actual constants and the whole range
        of the activations' codes; None where it cannot. The verifier refuses the node with this reason."""
        del inputs, constants
        return None

    def macs(self, inputs: Types) -> int:
        """Multiply-accumulates of the node."""
        del inputs
        return 0


def expect(condition: bool, message: str) -> None:
    """Raises TypeMismatchError(message) unless the condition holds."""
    if not condition:
        raise TypeMismatchError(message)
