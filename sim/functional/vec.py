"""What VEC does: accumulators to codes, and codes to codes."""

from __future__ import annotations

import numpy as np

from compiler.numerics.convolve import taps
from compiler.numerics.element import Array
from compiler.numerics.fixed_point import rescale
from compiler.numerics.tables import KNOTS, look_up
from sim.config import PARAMETER_BYTES
from sim.functional.core import Core
from sim.functional.mac import placed_window, read_image, seen_extent
from sim.functional.memory import ELEMENTS, CoreError
from sim.isa import (
    Binary,
    Elementwise,
    Engine,
    Factors,
    Inputs,
    Lookup,
    Memory,
    Output,
    Pool,
    Reduce,
    Requantize,
    Softmax,
    Window,
)
from sim.parameters import unpack_parameters

# Of the two tables of a 16-bit softmax (see compiler.ops.softmax).
_FACTOR_BITS = 30


def requantize(core: Core, i: Requantize) -> None:
    output = core.get(Output, Engine.VEC)
    entries = 1 if i.per_tensor else i.channels
    parameters = core.local[Memory.PARAMETER]
    data = parameters.read(i.param, (entries * PARAMETER_BYTES,), (1,))
    bias, multiplier, shift = parameters.derive(i.param, data, requantize, _parameters)
    acc = core.accumulators.read(i.acc, i.pixels * i.channels).reshape(i.pixels, i.channels)
    total = acc + bias  # wraps, as the accumulators do
    if output.out_bits == 32:
        core.activation.write_rows(i.dst, output.stride, total, 32)
        return
    codes = rescale(total, multiplier, shift)
    codes += output.zero_point
    codes = _clamped(codes, output)
    if output.lookup:
        codes = _table_entry(core, output.table, codes)
    core.activation.write_rows(i.dst, output.stride, codes, output.out_bits)


def _parameters(data: Array) -> tuple[Array, Array, Array]:
    """Bias as int32, multiplier, shift."""
    bias, multiplier, shift = unpack_parameters(data)
    return bias.astype(np.int32), multiplier, shift


def _table_entry(core: Core, table: int, codes: Array) -> Array:
    if codes.min() < -128 or codes.max() > 127:
        raise CoreError(f"looks up codes in [{codes.min()}, {codes.max()}], bounds must lie in 8 bits")
    entries = core.local[Memory.TABLE].read_rows(table, 1, 0, 256, 8)[0]
    return entries[codes + 128]


def _clamped(codes: Array, output: Output) -> Array:
    """In place."""
    if output.out_bits != 32:
        np.maximum(codes, output.low, out=codes)
        np.minimum(codes, output.high, out=codes)
    return codes


def elementwise(core: Core, i: Elementwise) -> None:
    inputs, output = core.get(Inputs, Engine.VEC), core.get(Output, Engine.VEC)
    memory = core.activation
    a = memory.read_rows(i.a, i.rows, inputs.a_stride, i.count, inputs.a_bits).astype(np.int64)
    b = np.zeros((1, 1), np.int64)
    if i.function not in (Binary.RESCALE, Binary.MOVE):
        count = 1 if inputs.b_scalar else i.count
        b = memory.read_rows(i.b, i.rows, inputs.b_stride, count, inputs.b_bits).astype(np.int64)
    memory.write_rows(i.dst, output.stride, _clamped(_binary(core, i, inputs, a, b), output), output.out_bits)


def _binary(core: Core, i: Elementwise, inputs: Inputs, a: Array, b: Array) -> Array:
    match i.function:
        case Binary.MIN:
            return np.minimum(a, b)
        case Binary.MAX:
            return np.maximum(a, b)
        case Binary.MOVE:
            return a
        case _:
            pass
    factors, zero = core.get(Factors, Engine.VEC), core.get(Output, Engine.VEC).zero_point
    centred_a, centred_b = a - inputs.a_zero, b - inputs.b_zero
    match i.function:
        case Binary.ADD:
            total = centred_a * factors.multiplier_a + centred_b * factors.multiplier_b
        case Binary.MUL:
            total = centred_a * centred_b * factors.multiplier_a
        case _:
            total = centred_a * factors.multiplier_a
    return _shifted(total, factors.shift) + zero


def _shifted(total: Array, shift: int) -> Array:
    """floor(total / 2**shift + 1/2)."""
    return (total + (1 << (shift - 1))) >> shift if shift else total


def pool(core: Core, i: Pool) -> None:
    window, inputs = core.get(Window, Engine.VEC), core.get(Inputs, Engine.VEC)
    output = core.get(Output, Engine.VEC)
    extent, strides = seen_extent(window, i.rows, i.columns), (inputs.a_image_stride, inputs.a_stride)
    image = read_image(core.activation, i.a, extent, strides, i.channels, inputs.a_bits).astype(np.int64)
    outside = ELEMENTS[inputs.a_bits].low if i.function is Reduce.MAX else inputs.a_zero
    placed, geometry = placed_window(image, window, i.rows, i.columns, outside)
    seen = [tap[0] for _, _, tap in taps(placed[None], geometry)]
    if i.function is Reduce.MAX:
        codes = np.maximum.reduce(seen)
    else:
        factors = core.get(Factors, Engine.VEC)
        total = np.add.reduce(seen) - inputs.a_zero * len(seen)
        codes = _shifted(total * factors.multiplier_a, factors.shift) + output.zero_point
    rows = _clamped(codes, output).reshape(-1, i.channels)
    core.activation.write_rows(i.dst, output.stride, rows, output.out_bits)


def lookup(core: Core, i: Lookup) -> None:
    inputs, output = core.get(Inputs, Engine.VEC), core.get(Output, Engine.VEC)
    codes = core.activation.read_rows(i.a, i.rows, inputs.a_stride, i.count, inputs.a_bits)
    element = ELEMENTS[inputs.a_bits]
    if inputs.a_bits > 16:
        raise CoreError(f"looks up codes of {inputs.a_bits} bits, the most is 16")
    entries = KNOTS if inputs.a_bits == 16 else element.high - element.low + 1
    bits = 16 if inputs.a_bits == 16 or output.out_bits > 8 else 8
    table = core.local[Memory.TABLE].read_rows(i.table, 1, 0, entries, bits)[0]
    found = look_up(table.astype(np.int32), codes, element)
    core.activation.write_rows(i.dst, output.stride, _clamped(found, output), output.out_bits)


def softmax(core: Core, i: Softmax) -> None:
    inputs, output = core.get(Inputs, Engine.VEC), core.get(Output, Engine.VEC)
    if inputs.a_bits not in (8, 16) or output.out_bits not in (8, 16):
        raise CoreError(
            f"codes of {inputs.a_bits} bits to {output.out_bits}: softmax takes and gives 8 or 16"
        )
    codes = core.activation.read_rows(i.a, i.rows, inputs.a_stride, i.count, inputs.a_bits).astype(np.int64)
    distance = codes.max(axis=1, keepdims=True) - codes
    tables = core.local[Memory.TABLE].read_rows(i.table, inputs.a_bits // 8, 1024, 256, 32).astype(np.int64)
    if inputs.a_bits == 8:
        exponential = tables[0][distance]
    else:
        drop = 2 * _FACTOR_BITS - (16 if output.out_bits == 8 else 30)
        exponential = _shifted(tables[0][distance >> 8] * tables[1][distance & 255], drop)
    total = exponential.sum(axis=1, keepdims=True)
    if total.min() <= 0:
        raise CoreError("a row of exponentials sums to 0: the table's first entry must be positive")
    bits = output.out_bits
    ratio = ((exponential << (bits + 1)) + total) // (total << 1)
    result = np.minimum(ratio, (1 << bits) - 1) - (1 << (bits - 1))
    core.activation.write_rows(i.dst, output.stride, result, bits)
