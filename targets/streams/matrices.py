"""Products of two activations, and of an activation with constant matrices that differ along the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Value
from compiler.loops.form import LoopForm
from compiler.lowering.program import KernelCall
from compiler.numerics.element import ElementType
from compiler.ops.matmul import MatMul
from schedules.npu_emit import Address, Emitter
from schedules.npu_matrix import Matrix, MatrixProduct
from schedules.npu_matrix_emit import emit_matrices
from schedules.npu_matrix_search import choose_matrix_tiling
from sim.config import NpuConfig
from sim.parameters import pack_parameters
from targets.streams.layer import Memory, source, strides_at
from targets.streams.rules import Rule, has_no_floats

I8, I32 = ElementType.I8, ElementType.I32


def sums_narrow(call: KernelCall, config: NpuConfig) -> bool:
    """a sum of products can pass 32 bits"""
    form = call.lowered.form
    assert isinstance(form, LoopForm)
    return form.buffer("total").element is I32


@dataclass(frozen=True, slots=True)
class MatrixLayer:
    """Products of matrices. One operand has 8 bits: two of 16 are never narrow enough."""

    rules: ClassVar[tuple[Rule, ...]] = (has_no_floats, sums_narrow)

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        p, tiling = choose_matrix_tiling(_product(call, memory), e.config, e.mechanisms)
        emit_matrices(e, p, tiling)


def _product(call: KernelCall, memory: Memory) -> MatrixProduct:
    op, (a, b), y = call.node.op, call.node.inputs, call.node.output
    assert isinstance(op, MatMul)
    numbers = (int(n) for n in call.lowered.constants["parameters"])
    zero_a, zero_b, multiplier, shift, zero, low, high = numbers
    (place,), rank = call.places, y.type.rank
    left, right = _operand(a, zero_a, rank, memory), _operand(b, zero_b, rank, memory)
    at = memory.address(place, y.type.element.dtype.itemsize)
    parameters = pack_parameters(np.zeros(1), np.array(multiplier), np.array(shift))
    *batch, m, n = y.type.shape
    return MatrixProduct(
        batch=tuple(batch),
        m=m,
        k=a.type.shape[-2 if op.transpose_a else -1],
        n=n,
        left=left.transposed if op.transpose_a else left,
        right=right.transposed if op.transpose_b else right,
        result=_matrix(at, y.type.element, strides_at(y, place), zero),
        parameters=memory.constant(parameters),
        low=low,
        high=high,
    )


def _operand(x: Value, zero: int, rank: int, memory: Memory) -> Matrix:
    """As stored, with the batch axes of the result. Constants lie there as codes of at least 8 bits."""
    at, strides = source(x, memory)
    own = tuple(s if n > 1 else 0 for n, s in zip(x.type.shape[:-2], strides, strict=False))
    element = I8 if x.type.element.bits < 8 else x.type.element
    return _matrix(at, element, (*(0,) * (rank - x.type.rank), *own, *strides[-2:]), zero)


def _matrix(at: Address, element: ElementType, strides: tuple[int, ...], zero: int) -> Matrix:
    *batch, row, column = strides
    return Matrix(at, element, tuple(batch), row, column, zero)
