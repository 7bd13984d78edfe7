"""VEC against the operators' references and the only code that rounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.types import quantized
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import SumFactors, nearest_factors, requantize
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.numerics.tables import look_up, lookup_table
from compiler.ops.pooling import AveragePool2D, MaxPool2D
from compiler.ops.resize import ResizeBilinear
from compiler.ops.softmax import Softmax as SoftmaxOp
from sim.functional.memory import ELEMENTS, CoreError
from sim.isa import Binary, Elementwise, Engine, Lookup, Memory, Pool, Reduce, Requantize, Softmax
from sim.parameters import pack_parameters
from tests.npu_core import Bench, factors, inputs, output, window

int32 = st.one_of(st.sampled_from([-(2**31), 2**31 - 1, 0, -1]), st.integers(-(2**31), 2**31 - 1))
I8, I16 = ElementType.I8, ElementType.I16


@settings(deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 20), st.sampled_from([1, 2, 4, 8, 16]), st.booleans())
def test_requantize_is_the_one_rounding(
    data: st.DataObject, pixels: int, channels: int, bits: int, per_tensor: bool
) -> None:
    """All shifts, all accumulators, bounds of the code; parameters of one channel or of each."""
    entries = 1 if per_tensor else channels
    acc = np.array(data.draw(st.lists(int32, min_size=pixels * channels, max_size=pixels * channels)))
    shift = np.array(data.draw(st.lists(st.integers(1, 62), min_size=entries, max_size=entries)))
    many = st.one_of(st.sampled_from([2**30, 2**31 - 1]), st.integers(2**30, 2**31 - 1))
    multiplier = np.array(data.draw(st.lists(many, min_size=entries, max_size=entries)))
    element = ELEMENTS[bits]
    low, high = sorted(data.draw(st.tuples(*[st.integers(element.low, element.high)] * 2)))
    zero = data.draw(st.integers(element.low, element.high))
    if bits == 1:
        low, high = -1, 1
    bench = Bench.of()
    bench.core.accumulators.write(7, acc)
    bench.put(Memory.PARAMETER, 3, pack_parameters(np.zeros(entries), multiplier, shift))
    stride = -(-channels * bits // 8)
    bench.run(
        output(bits, low=low, high=high, zero_point=zero, stride=stride),
        Requantize(acc=7, dst=11, param=3, pixels=pixels, channels=channels, per_tensor=per_tensor),
    )
    expected = requantize(acc.reshape(pixels, channels), multiplier, shift, zero, low, high)
    if bits == 1:
        expected = np.where(expected > 0, 1, -1)
    assert np.array_equal(bench.codes(11, pixels, channels, bits), expected)


def test_bias_wraps_and_32_bits_pass_unchanged() -> None:
    bench = Bench.of()
    acc, bias = np.array([2**31 - 1, -5]), np.array([1, 7])
    bench.core.accumulators.write(0, acc)
    bench.put(Memory.PARAMETER, 0, pack_parameters(bias, np.full(2, 2**30), np.full(2, 30)))
    bench.run(output(32), Requantize(acc=0, dst=0, param=0, pixels=1, channels=2))
    assert bench.codes(0, 1, 2, 32).tolist() == [[-(2**31), 2]]


def test_a_result_may_pass_a_table() -> None:
    bench = Bench.of()
    bench.core.accumulators.write(0, np.arange(-150, 150))
    bench.put(Memory.PARAMETER, 0, pack_parameters(np.array([0]), np.array([2**30]), np.array([30])))
    table = np.random.default_rng(0).integers(-128, 128, 256).astype(np.int8)
    bench.put(Memory.TABLE, 256, table)
    once = Requantize(acc=0, dst=0, param=0, pixels=1, channels=300, per_tensor=True)
    bench.run(output(lookup=True, table=256), once)
    assert np.array_equal(bench.codes(0, 1, 300, 8)[0], table[np.clip(np.arange(-150, 150), -128, 127) + 128])
    with pytest.raises(CoreError, match="bounds must lie in 8 bits"):
        bench.run(output(16, lookup=True, table=256), once)


def _operands(bench: Bench, bits: int, shape: tuple[int, int], seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    element = ELEMENTS[bits]
    a, b = (rng.integers(element.low, element.high + 1, shape) for _ in range(2))
    bench.put_codes(0, a, bits)
    bench.put_codes(2048, b, bits)
    return a, b


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@given(seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_addition_and_product(bits: int, seed: int) -> None:
    """As `Add` and `Mul` define them, with 46 and 63 bits for 16-bit codes."""
    bench = Bench.of()
    a, b = _operands(bench, bits, (3, 10), seed)
    stride, limit = -(-10 * bits // 8), 1 << bits
    total = SumFactors.nearest(0.7, -0.4, limit, limit, 46 if bits == 16 else 31)
    zeros = {"a_zero": 1, "b_zero": -2, "a_stride": stride, "b_stride": stride}
    to = output(bits, stride=stride, zero_point=1)
    add = Elementwise(function=Binary.ADD, a=0, b=2048, dst=4096, rows=3, count=10)
    bench.run(inputs(bits, **zeros), to, factors(total.multiplier_a, total.multiplier_b, total.shift), add)
    expected = np.clip(total.apply(a - 1, b + 2) + 1, to.low, to.high)
    assert np.array_equal(bench.codes(4096, 3, 10, bits), expected)
    product = SumFactors.nearest(2.0**-bits, 0.0, limit * limit, 0, 63)
    bench.run(
        factors(product.multiplier_a, 0, product.shift),
        Elementwise(function=Binary.MUL, a=0, b=2048, dst=4096, rows=3, count=10),
    )
    exact = [int(x) * int(y) * product.multiplier_a for x, y in zip((a - 1).flat, (b + 2).flat, strict=True)]
    half = 1 << (product.shift - 1)
    rounded = np.array([((e + half) >> product.shift) + 1 for e in exact]).reshape(3, 10)
    assert np.array_equal(bench.codes(4096, 3, 10, bits), np.clip(rounded, to.low, to.high))


def test_minimum_maximum_move_rescale_and_broadcast() -> None:
    bench = Bench.of()
    a, b = _operands(bench, 8, (3, 4), 0)

    def result(function: Binary, **given: object) -> Array:
        bench.run(
            inputs(8, a_stride=4, **given), output(8, stride=4), factors(3, 0, 1),  # pyright: ignore
            Elementwise(function=function, a=0, b=2048, dst=4096, rows=3, count=4),
        )  # fmt: skip
        return bench.codes(4096, 3, 4, 8)

    assert np.array_equal(result(Binary.MIN, b_stride=4), np.minimum(a, b))
    assert np.array_equal(result(Binary.MAX, b_stride=0), np.maximum(a, b[:1]))
    assert np.array_equal(result(Binary.MAX, b_stride=4, b_scalar=True), np.maximum(a, b[:, :1]))
    assert np.array_equal(result(Binary.MOVE), a)
    assert np.array_equal(result(Binary.RESCALE), np.clip((3 * a + 1) >> 1, -128, 127))


def test_narrow_codes_move_to_wider_ones_and_back() -> None:
    bench = Bench.of()
    a, _ = _operands(bench, 4, (2, 5), 3)
    once = Elementwise(function=Binary.MOVE, a=0, b=0, dst=4096, rows=2, count=5)
    bench.run(inputs(4, a_stride=3), output(8, stride=5), once)
    assert np.array_equal(bench.codes(4096, 2, 5, 8), a)
    back = Elementwise(function=Binary.MOVE, a=4096, b=0, dst=5000, rows=2, count=5)
    bench.run(inputs(8, a_stride=5), output(4, stride=3), back)
    assert np.array_equal(bench.codes(5000, 2, 5, 4), a)
    with pytest.raises(CoreError, match=r"results in \[-?\d+, \d+\] do not fit 4 bits"):
        bench.run(
            inputs(8, a_stride=5), output(4, stride=3, high=127), factors(100),
            Elementwise(function=Binary.RESCALE, a=4096, b=0, dst=5000, rows=2, count=5),
        )  # fmt: skip


def test_a_bilinear_pixel_is_two_sums() -> None:
    """First along the columns with shift 0 and 32-bit results, then along the rows with one rounding."""
    rng = np.random.default_rng(2)
    x = rng.integers(-128, 128, (1, 2, 2, 6)).astype(np.int8)
    op = ResizeBilinear((0.3,), (0.8,))
    of = quantized(x.shape, QuantizedType(I8, Quantization((1.0,))))
    (expected,) = op.reference((of,), (x,))
    bench = Bench.of()
    bench.put_codes(0, x.reshape(4, 6).astype(np.int64), 8)
    w = [int(np.floor(p * 2048 + 0.5)) for p in (0.3, 0.8)]
    bench.run(
        inputs(8, a_stride=12, b_stride=12), output(32, stride=24), factors(2048 - w[1], w[1], 0),
        Elementwise(function=Binary.ADD, a=0, b=6, dst=1024, rows=2, count=6),
        inputs(32), output(8), factors(2048 - w[0], w[0], 22),
        Elementwise(function=Binary.ADD, a=1024, b=1048, dst=2048, rows=1, count=6),
    )  # fmt: skip
    assert np.array_equal(bench.codes(2048, 1, 6, 8)[0], expected.reshape(-1))


@pytest.mark.parametrize("element", [I8, I16])
def test_pools_are_those_of_the_operators(element: ElementType) -> None:
    rng = np.random.default_rng(4)
    bits = element.bits
    x = rng.integers(element.low, element.high + 1, (1, 5, 6, 3)).astype(element.dtype)
    kind = QuantizedType(element, Quantization((0.5,), 3))
    of = quantized(x.shape, kind)
    bench = Bench.of()
    bench.put_codes(0, x.reshape(-1, 3).astype(np.int64), bits)
    pixel = 3 * bits // 8
    place = window(Engine.VEC, kernel_y=3, kernel_x=2, stride_y=2, pad_top=1, pad_left=1, height=5, width=6)
    strides = {"a_stride": pixel, "a_image_stride": 6 * pixel, "a_zero": 3}
    (largest,) = MaxPool2D((3, 2), (2, 1), (1, 1, 1, 0)).reference((of,), (x,))
    shape = largest.shape[1:3]
    bench.run(
        place, inputs(bits, **strides), output(bits, stride=pixel),
        Pool(function=Reduce.MAX, a=0, dst=4096, rows=shape[0], columns=shape[1], channels=3),
    )  # fmt: skip
    assert np.array_equal(bench.codes(4096, shape[0] * shape[1], 3, bits), largest.reshape(-1, 3))
    pads = (1, 1, 1, 0)
    op = AveragePool2D((3, 2), (2, 1), pads, pads, to=QuantizedType(element, Quantization((0.4,), -2)))
    (mean,) = op.reference((of,), (x,))
    m, s = nearest_factors([0.5 / (0.4 * 6)])
    bench.run(
        factors(int(m[0]), 0, int(s[0])), output(bits, stride=pixel, zero_point=-2),
        Pool(function=Reduce.SUM, a=0, dst=4096, rows=shape[0], columns=shape[1], channels=3),
    )  # fmt: skip
    assert np.array_equal(bench.codes(4096, shape[0] * shape[1], 3, bits), mean.reshape(-1, 3))


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_tables_are_those_of_numerics(bits: int) -> None:
    element = ELEMENTS[bits]
    of, to = (QuantizedType(element, Quantization((4 / element.high,))) for _ in range(2))
    table = lookup_table(np.tanh, of, to)
    step = 1 if bits < 16 else 37
    codes = np.arange(element.low, element.high + 1, step)[None]
    if codes.size % 2:
        codes = codes[:, :-1]
    bench = Bench.of()
    bench.put_codes(0, codes, bits)
    bench.put(Memory.TABLE, 2, table.astype(np.int16 if bits == 16 else np.int8))
    bench.run(inputs(bits), output(bits), Lookup(a=0, dst=4096, rows=1, count=codes.size, table=2))
    assert np.array_equal(bench.codes(4096, 1, codes.size, bits), look_up(table, codes, element))


@pytest.mark.parametrize(("of", "to"), [(I8, I8), (I8, I16), (I16, I8), (I16, I16)])
def test_softmax_is_that_of_the_operator(of: ElementType, to: ElementType) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(of.low, of.high + 1, (4, 9)).astype(of.dtype)
    x[1], x[2, 0] = of.low, of.high  # all equal; one far above the others
    kind = quantized(x.shape, QuantizedType(of, Quantization((8 / of.high,))))
    op = SoftmaxOp(SoftmaxOp().fixed_output(to))
    (expected,) = op.reference((kind,), (x,))
    tables = np.concatenate(list(op._tables(kind).values()))
    bench = Bench.of()
    bench.put_codes(0, x.astype(np.int64), of.bits)
    bench.put(Memory.TABLE, 0, tables.astype("<i4"))
    size, out = 9 * of.bits // 8, 9 * to.bits // 8
    bench.run(
        inputs(of.bits, a_stride=size), output(to.bits, stride=out),
        Softmax(a=0, dst=4096, rows=4, count=9, table=0),
    )  # fmt: skip
    assert np.array_equal(bench.codes(4096, 4, 9, to.bits), expected)
