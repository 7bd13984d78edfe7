"""Random cases of every operator, for the contract in `tests/test_ops_contract.py`.

A module of this package defines `CASES: dict[str, SearchStrategy[OpCase]]`, by mnemonic; it is discovered
by being there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from compiler.ir.op import Op
from compiler.ir.types import Shape, TensorType, quantized
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType

ACTIVATIONS = (ElementType.I8, ElementType.I16)


@dataclass(frozen=True)
class OpCase:
    """One application of an operator.

    constants: positions of the inputs that are known at compile time.
    """

    op: Op
    types: tuple[TensorType, ...]
    arrays: tuple[Array, ...]
    constants: frozenset[int] = frozenset()

    @property
    def results(self) -> tuple[TensorType, ...]:
        return self.op.infer(self.types)

    @property
    def is_float(self) -> bool:
        """Whether the operator computes on real numbers only, and so has no codes to agree about."""
        return all(t.element is ElementType.F32 for t in (*self.types, *self.results))


def all_cases() -> dict[str, SearchStrategy[OpCase]]:
    """The strategies of all modules, by mnemonic."""
    found: dict[str, SearchStrategy[OpCase]] = {}
    for module in pkgutil.iter_modules(__path__):
        cases: Mapping[str, SearchStrategy[OpCase]] = importlib.import_module(
            f"{__name__}.{module.name}"
        ).CASES
        if doubled := found.keys() & cases.keys():
            raise ValueError(f"two modules have cases of {sorted(doubled)}")
        found |= cases
    return found


@st.composite
def code_types(draw: DrawFn, elements: tuple[ElementType, ...] = ACTIVATIONS) -> QuantizedType:
    """Per-tensor types of activations: scales between 2**-8 and 2**-2, any zero point."""
    element = draw(st.sampled_from(elements))
    scale = float(np.float32(draw(st.floats(2**-8, 2**-2))))
    if element is ElementType.I16:
        scale /= 256
    zero_point = draw(
        st.sampled_from([0, element.low, element.high]) | st.integers(element.low, element.high)
    )
    return QuantizedType(element, Quantization((scale,), zero_point))


@st.composite
def bipolar_types(draw: DrawFn) -> QuantizedType:
    """Types of b1 activations, which have a scale alone."""
    return QuantizedType(ElementType.B1, Quantization((float(np.float32(draw(st.floats(2**-8, 2**-2)))),)))


@st.composite
def activations(
    draw: DrawFn, shape: Shape, elements: tuple[ElementType, ...] = ACTIVATIONS
) -> tuple[TensorType, Array]:
    """A type of the given shape and codes of it."""
    type_ = quantized(shape, draw(code_types(elements)))
    return type_, draw(codes(type_))


@st.composite
def signs(draw: DrawFn, shape: Shape) -> tuple[TensorType, Array]:
    """A b1 type of the given shape and codes of it."""
    type_ = quantized(shape, draw(bipolar_types()))
    return type_, draw(codes(type_))


@st.composite
def codes(draw: DrawFn, type_: TensorType) -> Array:
    """Codes of a type: uniform, or its two extremes only."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = type_.element.low, type_.element.high
    if type_.element is ElementType.B1 or draw(st.integers(0, 3)) == 0:
        return rng.choice([low, high], type_.shape).astype(type_.element.dtype)
    return rng.integers(low, high + 1, type_.shape).astype(type_.element.dtype)


@st.composite
def shapes(draw: DrawFn, rank: int, largest: int = 5) -> Shape:
    return draw(st.tuples(*[st.integers(1, largest)] * rank))
