"""Operators that let transposes pass: f(transpose(x), …) = transpose(f'(x, …))."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.types import TensorType
from compiler.numerics.element import Array, ElementType
from tests.op_cases import OpCase, all_cases
from tests.test_ops_contract import run_reference

CASES = all_cases()
COMMUTING = (
    *("add", "sub", "mul", "div", "minimum", "maximum", "clip", "prelu", "unary"),
    *("concat", "slice", "pad", "broadcast", "gather", "quantize", "requantize"),
)


@pytest.mark.parametrize("mnemonic", sorted(CASES))
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_transposes_pass(mnemonic: str, data: st.DataObject) -> None:
    case = data.draw(CASES[mnemonic])
    rank = max(t.rank for t in case.types)
    permutation = tuple(data.draw(st.permutations(range(rank))))
    op = case.op.permuted(permutation)
    if op is None:
        of_bits = any(t.element is ElementType.B1 for t in case.results)
        assert mnemonic not in COMMUTING or mnemonic == "broadcast" or of_bits
        return
    types = [t.with_shape((1,) * (rank - t.rank) + t.shape) for t in case.types]
    arrays = [a.reshape(t.shape) for t, a in zip(types, case.arrays, strict=True)]
    transposed = OpCase(case.op, tuple(types), tuple(arrays), case.constants)
    original = OpCase(op, *_before_transpose(types, arrays, np.argsort(permutation)), case.constants)
    for after, before in zip(run_reference(transposed), run_reference(original), strict=True):
        np.testing.assert_array_equal(after, before.transpose(permutation))


def _before_transpose(
    types: list[TensorType], arrays: list[Array], inverse: Array
) -> tuple[tuple[TensorType, ...], tuple[Array, ...]]:
    moved = tuple(a.transpose(inverse) for a in arrays)
    return tuple(t.with_shape(a.shape) for t, a in zip(types, moved, strict=True)), moved
