"""The contract of all operators: inference, text, loop form and float meaning agree with the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph
from compiler.ir.literal import Constant
from compiler.ir.op import Lowered, Op, Operand, Quantized, QuantizedOperand
from compiler.ir.parser import parse_graph
from compiler.ir.printer import graph_text
from compiler.ir.types import TensorType, f32
from compiler.ir.verifier import verify
from compiler.loops.contraction import evaluate_convolution
from compiler.loops.evaluate import evaluate
from compiler.loops.form import Convolution, LoopForm, Role
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops import OPS
from compiler.ops.edge import Dequantize, Quantize, Requantize
from tests.op_cases import OpCase, all_cases
from tests.rounding import assert_rounded, dequantized

CASES = all_cases()


def for_each_operator(law: Callable[[str, st.DataObject], None]) -> Callable[..., None]:
    """Runs a law (mnemonic, data) on random cases of each operator."""
    drawn = settings(max_examples=30, deadline=None)(given(data=st.data())(law))
    return pytest.mark.parametrize("mnemonic", sorted(CASES))(drawn)


def draw(data: st.DataObject, mnemonic: str) -> OpCase:
    case = data.draw(CASES[mnemonic])
    assert case.op.mnemonic == mnemonic
    return case


def run_reference(case: OpCase) -> tuple[Array, ...]:
    """The results by definition: of `reference`, or of `float_reference` where there are no codes."""
    function = case.op.float_reference if case.is_float else case.op.reference
    return function(case.types, case.arrays)


def test_every_operator_has_cases() -> None:
    assert OPS.keys() - {Constant.mnemonic} == CASES.keys()


@for_each_operator
def test_inference_tells_the_shape_and_element_of_every_result(mnemonic: str, data: st.DataObject) -> None:
    case = draw(data, mnemonic)
    results = run_reference(case)
    types = case.results
    assert [(r.shape, r.dtype) for r in results] == [(t.shape, t.element.dtype) for t in types]
    for result, type_ in zip(results, types, strict=True):
        if type_.is_quantized:
            assert result.min() >= type_.element.low and result.max() <= type_.element.high


@for_each_operator
def test_a_graph_of_the_operator_is_valid_and_survives_its_text(mnemonic: str, data: st.DataObject) -> None:
    case = draw(data, mnemonic)
    here = Location((f"a node/{mnemonic}",))
    graph = Graph("contract")
    inputs = [
        graph.constant(array, type_, here, f"c{i}")
        if i in case.constants
        else graph.add_input(f"x{i}", type_)
        for i, (type_, array) in enumerate(zip(case.types, case.arrays, strict=True))
    ]
    graph.outputs = graph.append(case.op, inputs, here)
    verify(graph)
    again = parse_graph(graph_text(graph), OPS)
    verify(again)
    assert graph_text(again) == graph_text(graph)
    assert again.nodes[-1].op == case.op


@for_each_operator
def test_the_form_computes_the_reference_bit_for_bit(mnemonic: str, data: st.DataObject) -> None:
    case = draw(data, mnemonic)
    if case.op.is_view or case.is_float:
        return
    lowered = case.op.lower(*operands(case))
    for expected, result in zip(run_reference(case), evaluate_lowered(lowered, case.arrays), strict=True):
        np.testing.assert_array_equal(result.reshape(expected.shape), expected)


@for_each_operator
def test_codes_lie_within_rounding_of_the_real_result(mnemonic: str, data: st.DataObject) -> None:
    case = draw(data, mnemonic)
    if not case.is_float:
        assert_rounded(case.op, case.types, case.arrays, run_reference(case))


@for_each_operator
def test_the_float_reference_keeps_its_precision(mnemonic: str, data: st.DataObject) -> None:
    case = draw(data, mnemonic)
    real = [dequantized(a, t) for a, t in zip(case.arrays, case.types, strict=True)]
    wide = case.op.float_reference(case.types, real)
    narrow = case.op.float_reference(case.types, [a.astype(np.float32) for a in real])
    for a, b, type_ in zip(wide, narrow, case.results, strict=True):
        assert (a.dtype, b.dtype) == (np.float64, np.float32)
        assert a.shape == b.shape == type_.shape
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * max(1.0, float(np.abs(a).max())))


@for_each_operator
def test_the_form_reads_and_writes_slices_of_wider_buffers(mnemonic: str, data: st.DataObject) -> None:
    case = draw(data, mnemonic)
    if case.op.is_view or case.is_float or any(is_bits(t) for t in (*case.types, *case.results)):
        return
    inputs, outputs = operands(case, padding=3)
    form = case.op.lower(inputs, outputs).form
    match form:
        case LoopForm():
            wanted = {o.strides for i, o in enumerate(inputs) if i not in case.constants} | {
                o.strides for o in outputs
            }
            assert {b.strides for b in form.buffers if b.role in (Role.INPUT, Role.OUTPUT)} == wanted
        case Convolution():
            wide = (form.in_channels + 3, form.out_channels + 3)
            assert (form.input_pitch, form.output_pitch) == (wide if inputs[0].strides else (None, None))


@for_each_operator
def test_a_float_operator_quantizes_to_the_wanted_types(mnemonic: str, data: st.DataObject) -> None:
    case = draw(data, mnemonic)
    if isinstance(case.op, Quantize | Dequantize | Requantize) or not all(
        t.is_quantized for t in case.results
    ):
        return
    real = as_real(case)
    constants = {i: dequantized(case.arrays[i], case.types[i]) for i in case.constants}
    inputs = [
        QuantizedOperand(real.types[i] if i in constants else t, constants.get(i))
        for i, t in enumerate(case.types)
    ]
    found = real.op.quantize(inputs, [t.codes for t in case.results], ElementType.I8)
    assert isinstance(found, Quantized)
    types, arrays = list(case.types), list(case.arrays)
    for i, (type_, array) in found.constants.items():
        types[i], arrays[i] = type_, array
    assert found.op.infer(types) == case.results
    assert (
        found.op.overflow(types, [a if i in case.constants else None for i, a in enumerate(arrays)]) is None
    )
    again = OpCase(found.op, tuple(types), tuple(arrays), case.constants)
    assert [r.dtype for r in run_reference(again)] == [t.element.dtype for t in case.results]


@for_each_operator
def test_numbers_do_not_change_the_form(mnemonic: str, data: st.DataObject) -> None:
    """Layers that differ in scales, zero points and clamps alone share one kernel."""
    case = draw(data, mnemonic)
    if case.op.is_view or case.is_float or case.constants:
        return
    other = OpCase(with_other_numbers(case.op), tuple(renumbered(t) for t in case.types), case.arrays)
    assert case.op.lower(*operands(case)).form == other.op.lower(*operands(other)).form


def as_real(case: OpCase) -> OpCase:
    """The float operator that the case's operator was quantized from."""
    arrays = tuple(dequantized(a, t) for a, t in zip(case.arrays, case.types, strict=True))
    changed: dict[str, Any] = {"to": None} if hasattr(case.op, "to") else {}
    return OpCase(
        with_fields(case.op, changed), tuple(f32(*t.shape) for t in case.types), arrays, case.constants
    )


def with_other_numbers(op: Op) -> Op:
    """The same structure with another output scale, zero point and clamp, where the operator has any."""
    changed: dict[str, Any] = {}
    to = getattr(op, "to", None)
    if isinstance(to, QuantizedType) and op.fixed_output(to.element) is None:
        changed["to"] = QuantizedType(to.element, other_numbers(to.quantization, to.element))
    if hasattr(op, "clamp"):
        changed["clamp"] = (-0.5, 0.75)
    return with_fields(op, changed)


def with_fields(op: Op, changed: Mapping[str, Any]) -> Op:
    """`dataclasses.replace`: concrete operators are dataclasses, their base is none."""
    return cast(Any, replace)(op, **changed)


def renumbered(type_: TensorType) -> TensorType:
    q = type_.quantization
    return type_ if q is None else replace(type_, quantization=other_numbers(q, type_.element))


def other_numbers(q: Quantization, element: ElementType) -> Quantization:
    zero_point = 0 if element is ElementType.B1 else q.zero_point // 2 + 1
    return replace(q, scales=tuple(s * 1.5 for s in q.scales), zero_point=zero_point)


def is_bits(type_: TensorType) -> bool:
    return type_.element is ElementType.B1


def operands(case: OpCase, padding: int | None = None) -> tuple[list[Operand], list[Operand]]:
    """Operands of the case; padding: elements of a wider buffer between rows of the last axis."""

    def strides(type_: TensorType) -> tuple[int, ...] | None:
        if padding is None or type_.rank < 2:
            return None
        widened = (*type_.shape[1:-1], type_.shape[-1] + padding)
        return tuple(int(np.prod(widened[d:])) for d in range(type_.rank))

    inputs = [
        Operand(t, None, a) if i in case.constants else Operand(t, strides(t))
        for i, (t, a) in enumerate(zip(case.types, case.arrays, strict=True))
    ]
    return inputs, [Operand(t, strides(t)) for t in case.results]


def evaluate_lowered(lowered: Lowered, arrays: tuple[Array, ...]) -> list[Array]:
    form = lowered.form
    if isinstance(form, Convolution):
        return [evaluate_convolution(form, arrays[lowered.inputs[0]], lowered.constants)]
    inputs = [b for b in form.buffers if b.role is Role.INPUT]
    named = {b.name: arrays[i] for b, i in zip(inputs, lowered.inputs, strict=True)}
    assert {b.name for b in form.buffers if b.role is Role.CONSTANT} == lowered.constants.keys()
    for buffer in form.buffers:
        if buffer.role is Role.CONSTANT:
            assert lowered.constants[buffer.name].dtype == buffer.element.dtype
    outputs = evaluate(form, {**named, **lowered.constants})
    return [outputs[b.name] for b in form.buffers if b.role is Role.OUTPUT]
