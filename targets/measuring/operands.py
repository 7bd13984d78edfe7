"""What a measured kernel is given, and what it must make of it.

`example_of` says it for a form, in logical shapes; `store` lays it out as a plan's kernel takes it, byte for
byte, so that one need only compare memory to know whether a result is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.loops.evaluate import evaluate
from compiler.loops.evaluate_convolution import evaluate_convolution
from compiler.loops.form import Buffer, Convolution, Form, LoopForm, Role
from compiler.loops.nest import span_of, strides_of
from compiler.lowering.kernel import KernelPlan
from compiler.lowering.machine import CpuMachine
from compiler.lowering.program import SCRATCH, kernel_calls
from compiler.lowering.storage import place_values
from compiler.numerics.element import Array, ElementType
from schedules.bits import pack_bits, packed_bytes
from schedules.mali_machines import GpuMachine

# What outputs and scratch hold before a kernel runs, and outputs between their elements behind it.
GARBAGE = 0x5A

# What says how codes lie in memory.
StoringMachine = CpuMachine | GpuMachine
Constants = Mapping[str, Array]
FormConstants = Mapping[Form, Constants]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Contents of a form's operands by name, in logical shapes and their elements' dtypes.

    expected: the outputs, as the form's definition says.
    """

    form: Form
    constants: Constants
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class StoredOperands:
    """Bytes (uint8, one axis) of a kernel's operands by name, in the order of its pointers.

    before: at the call; outputs and scratch (if there is any) hold garbage. after: what the outputs must
    hold then, the garbage between their elements included. Constants are followed by 64 readable bytes.
    """

    before: Mapping[str, Array]
    after: Mapping[str, Array]


def constants_of(graph: Graph) -> dict[Form, Constants]:
    """Constants of each distinct form of a quantized graph, those of its first node."""
    found: dict[Form, Constants] = {}
    for call in kernel_calls(graph, place_values(graph)):
        found.setdefault(call.lowered.form, call.lowered.constants)
    return found


def example_of(form: Form, constants: Constants | None = None, seed: int = 0) -> Example:
    """Random inputs and the outputs that follow, the same for the same arguments.

    constants: those of a model; without, those of a convolution are drawn so that results spread over the
    output's range. Errors: BitloomError for a loop form with constants of which some are not given: which
    numbers make sense there only its operator knows; IndexError where they do not fit the form.
    """
    rng = np.random.default_rng(seed)
    if constants is None:
        constants = random_constants(form, rng) if isinstance(form, Convolution) else {}
    if isinstance(form, LoopForm):
        _check_given(form, constants)
    buffers = [b for b in activations_of(form) if b.role is Role.INPUT]
    inputs = {b.name: _random(b, rng, _reach(form)) for b in buffers}
    if isinstance(form, Convolution):
        expected = {"output": evaluate_convolution(form, inputs["input"], constants)}
    else:
        expected = evaluate(form, {**constants, **inputs})
    return Example(form, constants, inputs, expected)


def _check_given(form: LoopForm, constants: Constants) -> None:
    missing = [b.name for b in form.operands if b.role is Role.CONSTANT and b.name not in constants]
    if missing:
        raise BitloomError(
            f"form {form.name} has constants ({', '.join(missing)}) that only a model knows",
            "give the device the constants of the model's forms",
        )


def _reach(form: Form) -> int:
    """The largest 16-bit code by which sums of products stay in 32 bits, as a model's do."""
    limit = ElementType.I16.high
    products = form.taps * form.weight.weight_limit if isinstance(form, Convolution) else 1
    return min(limit, (1 << 30) // products)


def random_constants(form: Convolution, rng: np.random.Generator) -> dict[str, Array]:
    """weight, bias, multiplier, shift and parameters of a convolution. Shifts lie around the size of its
    sums, so that results spread over the range of its output."""
    outputs, limit = form.out_channels, form.weight.weight_limit
    shape = (outputs, form.kernel_height, form.kernel_width, form.in_channels // form.groups)
    weight = rng.integers(-limit, limit + 1, shape)
    if form.weight is ElementType.B1:
        weight = np.where(weight > 0, 1, -1)
    # Standard deviations of the codes of one product, for uniform codes.
    deviation = max(1.0, limit * form.input.high / 3) * np.sqrt(form.taps)
    wanted = max(1.0, form.output.high / 3) if form.requantizes else 1.0
    shift = 31 + int(np.clip(np.log2(deviation / wanted), -8, 30))
    zero_in, zero_out = (0 if e is ElementType.B1 else 3 for e in (form.input, form.output))
    reach = max(1, int(deviation))
    return {
        "weight": weight.astype(np.int8),
        "bias": rng.integers(-reach, reach + 1, outputs).astype(np.int32),
        "multiplier": rng.integers(1 << 30, 1 << 31, outputs).astype(np.int32),
        "shift": np.full(outputs, shift, np.int32),
        "parameters": np.array([zero_in, zero_out, form.output.low, form.output.high], np.int32),
    }


def store(plan: KernelPlan, example: Example) -> StoredOperands:
    """The example as the plan's kernel takes it."""
    machine = plan.machine
    assert isinstance(machine, CpuMachine | GpuMachine), "codes lie in memory as their machine wants them"
    packed = plan.pack(example.constants)
    slack = np.zeros(64, np.uint8)
    known = {name: np.concatenate([_bytes(array), slack]) for name, array in packed.items()}
    known[SCRATCH] = np.broadcast_to(np.uint8(GARBAGE), plan.scratch_bytes)
    after: dict[str, Array] = {}
    for buffer in activations_of(example.form):
        if buffer.role is Role.INPUT:
            known[buffer.name] = _stored(buffer, machine, example.inputs[buffer.name])
        else:
            after[buffer.name] = _stored(buffer, machine, example.expected[buffer.name])
            known[buffer.name] = np.full(after[buffer.name].size, GARBAGE, np.uint8)
    return StoredOperands({name: known[name] for name in plan.operands}, after)


def activations_of(form: Form) -> list[Buffer]:
    """Inputs and outputs of a form, with their layout in memory."""
    if isinstance(form, LoopForm):
        return [b for b in form.operands if b.role is not Role.CONSTANT]
    inputs = (form.batch, form.in_height, form.in_width, form.in_channels)
    outputs = (form.batch, form.out_height, form.out_width, form.out_channels)
    return [
        Buffer("input", inputs, form.input, Role.INPUT, _pitched(inputs, form.input_pitch)),
        Buffer("output", outputs, form.output, Role.OUTPUT, _pitched(outputs, form.output_pitch)),
    ]


def _pitched(shape: tuple[int, int, int, int], pitch: int | None) -> tuple[int, ...] | None:
    """Strides of an NHWC tensor with `pitch` elements between neighbouring pixels."""
    if pitch is None:
        return None
    _, height, width, _ = shape
    return height * width * pitch, width * pitch, pitch, 1


def _stored(buffer: Buffer, machine: StoringMachine, value: Array) -> Array:
    """Bytes of an activation in the arena, with garbage where it has no elements."""
    bits = buffer.element is ElementType.B1
    offset = machine.activation_offset if buffer.element is ElementType.I8 else 0
    span = -(-span_of(buffer) // 8) if bits else span_of(buffer) * _storage_of(buffer, machine).itemsize
    memory = np.full(span, GARBAGE, np.uint8)
    view = _view(buffer, machine, memory)
    view[...] = pack_bits(value) if bits else value.astype(np.int16) + offset if offset else value
    return memory


def _storage_of(buffer: Buffer, machine: StoringMachine) -> np.dtype[Any]:
    unsigned = buffer.element is ElementType.I8 and machine.activation_offset
    return np.dtype(np.uint8) if unsigned or buffer.element is ElementType.B1 else buffer.element.dtype


def _view(buffer: Buffer, machine: StoringMachine, memory: Array) -> Array:
    """The elements of an activation in its bytes, codes of one bit by eights."""
    dtype, shape, strides = _storage_of(buffer, machine), buffer.shape, strides_of(buffer)
    if buffer.element is ElementType.B1:
        shape, strides = (*shape[:-1], packed_bytes(shape[-1])), (*(s // 8 for s in strides[:-1]), 1)
    return as_strided(memory.view(dtype), shape, [s * dtype.itemsize for s in strides])


def difference(buffer: Buffer, machine: StoringMachine, found: Array, expected: Array) -> str | None:
    """How an activation's bytes differ from those that are expected, garbage between its elements included;
    None where they do not."""
    if np.array_equal(found, expected):
        return None
    values, right = _view(buffer, machine, found), _view(buffer, machine, expected)
    bits = np.dtype(f"u{values.itemsize}")
    wrong = values.view(bits) != right.view(bits)
    if not wrong.any():
        return f"it wrote beside {buffer.name}"
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{int(wrong.sum())} of {wrong.size} elements of {buffer.name} are wrong, "
        f"the first at {place}: {values[place]} instead of {right[place]}"
    )


def _random(buffer: Buffer, rng: np.random.Generator, reach: int) -> Array:
    """reach: of 16-bit codes."""
    element = buffer.element
    match element:
        case ElementType.F32:
            return rng.normal(0, 1, buffer.shape).astype(np.float32)
        case ElementType.B1:
            return rng.choice(np.array([-1, 1], np.int8), buffer.shape)
        case ElementType.BOOL:
            return rng.integers(0, 2, buffer.shape).astype(np.bool_)
        case ElementType.I32 | ElementType.I64:  # sums of products, far from their type's ends
            return rng.integers(-(1 << 20), 1 << 20, buffer.shape).astype(element.dtype)
        case _:
            low, high = max(element.low, -reach), min(element.high, reach)
            return rng.integers(low, high + 1, buffer.shape).astype(element.dtype)


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
