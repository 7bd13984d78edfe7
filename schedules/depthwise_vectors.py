"""What depthwise kernels execute, vector by vector: interleaving rows, dot products, rescaling, narrowing.

Functions take and return TVM expressions; those marked "bound" name their result, so that a value used
twice is computed once. `lanes` counts the int32 lanes of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm.tirx
import tvm.tirx.script.builder.ir
from tvm.target.codegen import llvm_lookup_intrinsic_id

from compiler.lowering.machine import DotProduct
from compiler.numerics.element import ElementType
from schedules import intrinsics_arm32
from schedules.depthwise_layout import VECTORS, DepthwiseLayout

Vector = Any  # TVM's expressions carry no types
tirx: Any = tvm.tirx  # and its annotations forbid the Python integers that its functions take
emit: Any = tvm.tirx.script.builder.ir

_PACK_WORDS = {
    4: "llvm.x86.sse2.packssdw.128",
    8: "llvm.x86.avx2.packssdw",
    16: "llvm.x86.avx512.packssdw.512",
}
_PACK_BYTES = {
    4: "llvm.x86.sse2.packuswb.128",
    8: "llvm.x86.avx2.packuswb",
    16: "llvm.x86.avx512.packuswb.512",
}
_MULTIPLY_PAIRS = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}


@dataclass(frozen=True, slots=True)
class Factors:
    """Rescaling of one vector, int32 per lane: see `depthwise.FACTORS`."""

    multiplier: Vector
    rounding: Vector
    shift: Vector
    limit: Vector
    scale_up: Vector


def _call(name: str, dtype: str, *args: Vector) -> Vector:
    return tirx.call_llvm_pure_intrin(dtype, llvm_lookup_intrinsic_id(name), *args)


def shuffle(vectors: Sequence[Vector], indices: Sequence[int]) -> Vector:
    """Elements of the concatenated vectors."""
    return tirx.Shuffle(list(vectors), [tirx.const(int(i), "int32") for i in indices])


def _interleave(a: Vector, b: Vector, size: int, per_block: int, unit: int = 1) -> list[Vector]:
    """The low and the high halves of each 128 bits of a and b, units alternating (punpckl and punpckh, zip1
    and zip2); bound. size: elements of a; per_block: elements in 128 bits; unit: elements that stay together.
    """
    halves: list[Vector] = []
    for high in (0, per_block // 2):
        indices: list[int] = []
        for start in range(0, size, per_block):
            for i in range(start + high, start + high + per_block // 2, unit):
                indices += [*range(i, i + unit), *range(size + i, size + i + unit)]
        halves.append(emit.bind(shuffle([a, b], indices)))
    return halves


def interleave_rows(
    layout: DepthwiseLayout, lanes: int, load: Callable[[int, int, int], Vector]
) -> list[Vector]:
    """A column of the band in 4 vectors or in one, from `load(row, first channel, channels)`, which binds its
    result."""
    size = VECTORS * lanes
    match layout.depth, layout.form.input:
        case 4, _:
            rows = [load(d, 0, size) for d in range(4)]
            top, bottom = _interleave(rows[0], rows[1], size, 16), _interleave(rows[2], rows[3], size, 16)
            return [v for a, b in zip(top, bottom, strict=True) for v in _interleave(a, b, size, 16, 2)]
        case 2, ElementType.I8:  # bytes of two rows, then zero bytes between: int16 pairs
            zero = tirx.Broadcast(tirx.const(0, "uint8"), size)
            pairs = _interleave(load(0, 0, size), load(1, 0, size), size, 16)
            return [v for p in pairs for v in _interleave(p, zero, size, 16)]
        case 2, _:
            half = 2 * lanes
            parts = [[load(d, half * h, half) for d in range(2)] for h in range(2)]
            return [v for a, b in parts for v in _interleave(a, b, half, 8)]
        case _ if layout.keeps_words:
            return [tirx.Cast(f"int16x{size}", load(0, 0, size))]
        case _:
            return [tirx.Cast(f"int16x{lanes}", load(0, v * lanes, lanes)) for v in range(VECTORS)]


def dot(layout: DepthwiseLayout, lanes: int, accumulator: Vector, x: Vector, w: Vector) -> Vector:
    """accumulator + the sums of `depth` neighbouring products, modulo 2**32; bound."""
    i32, u32 = f"int32x{lanes}", f"uint32x{lanes}"

    def add(value: Vector) -> Vector:  # unsigned: LLVM takes overflow of signed sums for undefined
        return tirx.reinterpret(i32, tirx.reinterpret(u32, accumulator) + tirx.reinterpret(u32, value))

    match layout.machine.dot, layout.depth:
        case DotProduct.VNNI, 4:
            value = _call(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", i32, accumulator, x, w)
        case DotProduct.VNNI, _:
            value = _call(f"llvm.x86.avx512.vpdpwssd.{32 * lanes}", i32, accumulator, x, w)
        case DotProduct.PMADDWD, 2:
            value = add(_call(_MULTIPLY_PAIRS[lanes], i32, x, w))
        case DotProduct.SDOT | DotProduct.SMMLA, 4:
            value = _call(f"llvm.aarch64.neon.sdot.v{lanes}i32.v{4 * lanes}i8", i32, accumulator, x, w)
        case _:
            value = add(tirx.Cast(i32, x) * tirx.Cast(i32, w))
    return emit.bind(value)


def rescale(layout: DepthwiseLayout, lanes: int, accumulator: Vector, f: Factors, scale_up: bool) -> Vector:
    """The form's output before zero point and clamp, or a number that those take to the same code.

    scale_up: whether some shift is below `DepthwiseLayout.least_shift`."""
    if not layout.machine.is_x86:
        neon = _rescale_neon32 if layout.machine.dot is DotProduct.VMLAL else _rescale_neon
        return neon(accumulator, f, scale_up)
    if scale_up:
        zero = tirx.Broadcast(tirx.const(0, "int32"), lanes)
        bounded = tirx.max(tirx.min(accumulator, f.limit), zero - f.limit)
        accumulator = emit.bind(bounded << f.scale_up)
    high = _multiply_high_x86 if layout.is_x86 else _multiply_high
    return (high(lanes, accumulator, f.multiplier) + f.rounding) >> f.shift


def _rescale_neon(accumulator: Vector, f: Factors, scale_up: bool) -> Vector:
    if scale_up:
        accumulator = _call("llvm.aarch64.neon.sqshl.v4i32", "int32x4", accumulator, f.scale_up)
    high = _call("llvm.aarch64.neon.sqdmulh.v4i32", "int32x4", accumulator, f.multiplier)
    return _call("llvm.aarch64.neon.srshl.v4i32", "int32x4", high, f.shift)


def _rescale_neon32(accumulator: Vector, f: Factors, scale_up: bool) -> Vector:
    moved = intrinsics_arm32.move_left(accumulator, f.scale_up) if scale_up else accumulator
    return intrinsics_arm32.rescale(moved, f.multiplier, f.shift)


def _multiply_high(lanes: int, a: Vector, b: Vector) -> Vector:
    """floor(a * b / 2**32)"""
    wide = f"int64x{lanes}"
    product = tirx.Cast(wide, a) * tirx.Cast(wide, b)
    return tirx.Cast(f"int32x{lanes}", product >> tirx.Broadcast(tirx.const(32, "int64"), lanes))


def _multiply_high_x86(lanes: int, a: Vector, b: Vector) -> Vector:
    """The same by vpmuldq, which multiplies the low halves of 64-bit lanes: even lanes, then odd ones."""
    wide, word = f"int64x{lanes // 2}", tirx.Broadcast(tirx.const(32, "int64"), lanes // 2)
    a, b = emit.bind(tirx.reinterpret(wide, a)), emit.bind(tirx.reinterpret(wide, b))
    even = ((a << word) >> word) * ((b << word) >> word)
    odd = (a >> word) * (b >> word)
    words = [emit.bind(tirx.reinterpret(f"int32x{lanes}", p)) for p in (even, odd)]
    return shuffle(words, [i | 1 if i % 2 == 0 else lanes + i for i in range(lanes)])


def narrow(layout: DepthwiseLayout, lanes: int, vectors: Sequence[Vector], parameters: Any) -> Vector:
    """Stored codes of a group in the order of channels, from its 4 rescaled vectors."""
    if layout.packs_bytes:
        return _narrow_bytes(lanes, vectors, parameters)
    if layout.keeps_words and layout.output_dtype == "int8":
        if layout.machine.dot is DotProduct.VMLAL:
            return intrinsics_arm32.narrow_to_bytes(vectors, *(parameters[i] for i in (1, 2, 3)))
        return _narrow_neon(vectors, parameters)
    width = VECTORS * lanes
    position = np.argsort(layout.channel_order(lanes).ravel())
    values = emit.bind(shuffle(vectors, [int(p) for p in position]))
    if layout.form.requantizes:  # the zero point is added last: the sum cannot leave int32
        zero, low, high = (parameters[i] for i in (1, 2, 3))
        low, high = tirx.Broadcast(low - zero, width), tirx.Broadcast(high - zero, width)
        values = tirx.max(tirx.min(values, high), low) + tirx.Broadcast(zero, width)
    return tirx.Cast(f"{layout.output_dtype}x{width}", values)


def _narrow_bytes(lanes: int, vectors: Sequence[Vector], parameters: Any) -> Vector:
    """Saturating packs restore the order of channels. Saturation to int16 loses nothing: a value beyond
    int16 is beyond the bounds of a code whatever the zero point."""
    words, width = f"int16x{2 * lanes}", VECTORS * lanes
    zero = tirx.Broadcast(tirx.Cast("int16", parameters[1]), 2 * lanes)
    pairs = [_call(_PACK_WORDS[lanes], words, *vectors[i : i + 2]) for i in (0, 2)]
    shifted = [_call(f"llvm.sadd.sat.v{2 * lanes}i16", words, p, zero) for p in pairs]
    codes = tirx.reinterpret(f"uint8x{width}", _call(_PACK_BYTES[lanes], f"int8x{width}", *shifted))
    low, high = (tirx.Broadcast(tirx.Cast("uint8", parameters[i]), width) for i in (2, 3))
    return tirx.max(tirx.min(codes, high), low)


def _narrow_neon(vectors: Sequence[Vector], parameters: Any) -> Vector:
    """The same by SQXTN; with four lanes channels are in order as they are."""
    zero = tirx.Broadcast(tirx.Cast("int16", parameters[1]), 8)
    halves: list[Vector] = []
    for pair in (vectors[:2], vectors[2:]):
        words = [_call("llvm.aarch64.neon.sqxtn.v4i16", "int16x4", v) for v in pair]
        shifted = _call("llvm.sadd.sat.v8i16", "int16x8", shuffle(words, range(8)), zero)
        halves.append(_call("llvm.aarch64.neon.sqxtn.v8i8", "int8x8", shifted))
    codes = emit.bind(shuffle(halves, range(16)))
    low, high = (tirx.Broadcast(tirx.Cast("int8", parameters[i]), 16) for i in (2, 3))
    return tirx.max(tirx.min(codes, high), low)
