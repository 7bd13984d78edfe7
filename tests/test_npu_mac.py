"""MAC against sums that are written out, for all widths and windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.numerics.element import Array
from sim.functional.memory import ELEMENTS, CoreError
from sim.isa import Depthwise, Engine, Gemm, Memory, Window
from tests.npu_core import CONFIG, Bench, operands, window

ACT, WGT = (1, 2, 4, 8, 16), (1, 2, 4, 8)


def codes(rng: np.random.Generator, shape: tuple[int, ...], bits: int, extreme: bool) -> Array:
    element = ELEMENTS[bits]
    ends = np.array([element.low, element.high])
    if bits == 1 or extreme:
        return rng.choice(ends, shape).astype(np.int64)
    return rng.integers(element.low, element.high + 1, shape)


def pack_weights(weight: Array, lanes: int, bits: int) -> Array:
    """OHWI -> bytes [block][taps][channels][outputs of the block]: written from the text of `Gemm`."""
    rows: list[int] = []
    for first in range(0, weight.shape[0], lanes):
        block = weight[first : first + lanes].reshape(min(lanes, weight.shape[0] - first), -1)
        for column in block.T:
            fields = [(int(c > 0) if bits == 1 else int(c)) & ((1 << bits) - 1) for c in column]
            number = sum(f << (bits * i) for i, f in enumerate(fields))
            rows += number.to_bytes(-(-bits * len(fields) // 8), "little")
    return np.array(rows, np.uint8)


def sums(image: Array, weight: Array, w: Window, rows: int, columns: int, zeros: tuple[int, int]) -> Array:
    """[rows, columns, outputs], each product by itself."""
    out = np.zeros((rows, columns, weight.shape[0]), np.int64)
    for y, x in np.ndindex(rows, columns):
        for i, j in np.ndindex(w.kernel_y, w.kernel_x):
            row = y * w.stride_y + i * w.dilation_y - w.pad_top
            column = x * w.stride_x + j * w.dilation_x - w.pad_left
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                out[y, x] += (weight[:, i, j, :] - zeros[1]) @ (image[row, column] - zeros[0])
    return out


@st.composite
def windows(draw: st.DrawFn) -> tuple[Window, int, int]:
    """A window and how many rows and columns it gives; some of them may lie outside of the image."""
    few = st.integers(1, 3)
    w = window(
        Engine.MAC,
        **{f"{n}_{d}": draw(few) for n in ("kernel", "stride", "dilation") for d in "yx"},
        pad_top=draw(st.integers(0, 3)),
        pad_left=draw(st.integers(0, 3)),
        height=draw(st.integers(1, 6)),
        width=draw(st.integers(1, 6)),
    )
    return w, draw(few), draw(few)


@settings(max_examples=150, deadline=None)
@given(
    windows(), st.integers(1, 40), st.integers(1, 70), st.sampled_from(ACT), st.sampled_from(WGT),
    st.booleans(), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_gemm_is_the_sum_of_products(
    placed: tuple[Window, int, int], channels: int, outputs: int, act: int, wgt: int, extreme: bool,
    again: bool, seed: int,
) -> None:  # fmt: skip
    w, rows, columns = placed
    rng = np.random.default_rng(seed)
    image = codes(rng, (w.height, w.width, channels), act, extreme)
    weight = codes(rng, (outputs, w.kernel_y, w.kernel_x, channels), wgt, extreme)
    zeros = (0 if act == 1 else int(rng.integers(-3, 4)), 0 if wgt == 1 else int(rng.integers(-3, 4)))
    packed = pack_weights(weight, CONFIG.mac.output_lanes(act, wgt), wgt)
    pixel = -(-channels * act // 8)
    if packed.size > CONFIG.scratchpad.weight_bytes or rows * columns * outputs > 1536:
        return
    bench, wgt_at = Bench.of(), min(5, CONFIG.scratchpad.weight_bytes - packed.size)
    bench.put_codes(16, image.reshape(-1, channels), act)
    bench.put(Memory.WEIGHT, wgt_at, packed)
    gemm = Gemm(act=16, wgt=wgt_at, acc=0, rows=rows, columns=columns, outputs=outputs)
    bench.run(
        w,
        operands(
            act_bits=act, wgt_bits=wgt, act_zero=zeros[0], wgt_zero=zeros[1], channels=channels,
            row_stride=w.width * pixel, pixel_stride=pixel,
        ),
        gemm,
    )  # fmt: skip
    expected = sums(image, weight, w, rows, columns, zeros)
    if again:
        bench.run(replace(gemm, accumulate=True))
        expected *= 2
    assert np.array_equal(bench.core.accumulators.read(0, expected.size), expected.reshape(-1))


@settings(max_examples=80, deadline=None)
@given(
    windows(),
    st.integers(1, 40),
    st.sampled_from(ACT),
    st.sampled_from(WGT),
    st.booleans(),
    st.integers(0, 99),
)
def test_depthwise_is_one_filter_for_each_channel(
    placed: tuple[Window, int, int], channels: int, act: int, wgt: int, extreme: bool, seed: int
) -> None:
    w, rows, columns = placed
    rng = np.random.default_rng(seed)
    image = codes(rng, (w.height, w.width, channels), act, extreme)
    taps = codes(rng, (w.kernel_y * w.kernel_x, channels), wgt, extreme)
    pixel = -(-channels * act // 8)
    bench = Bench.of()
    bench.put_codes(0, image.reshape(-1, channels), act)
    bench.put_codes(0, taps, wgt, Memory.WEIGHT)
    bench.run(
        w,
        operands(
            act_bits=act, wgt_bits=wgt, channels=channels, row_stride=w.width * pixel, pixel_stride=pixel
        ),
        Depthwise(act=0, wgt=0, acc=0, rows=rows, columns=columns),
    )
    for c in range(channels):
        weight = taps[:, c].reshape(1, w.kernel_y, w.kernel_x, 1)
        expected = sums(image[..., c : c + 1], weight, w, rows, columns, (0, 0))
        found = bench.core.accumulators.read(0, rows * columns * channels).reshape(rows, columns, channels)
        assert np.array_equal(found[..., c], expected[..., 0])


def test_a_run_of_memory_may_reach_over_pixels() -> None:
    """The three taps of a kernel row over three channels are one run of nine elements."""
    rng = np.random.default_rng(1)
    image, weight = rng.integers(-128, 128, (5, 6, 3)), rng.integers(-127, 128, (8, 3, 3, 3))
    bench = Bench.of()
    bench.put_codes(0, image.reshape(-1, 3), 8)
    bench.put(Memory.WEIGHT, 0, pack_weights(weight.reshape(8, 3, 1, 9), 8, 8))
    bench.run(
        window(Engine.MAC, kernel_y=3, height=5, width=4),
        operands(channels=9, row_stride=18, pixel_stride=3),
        Gemm(act=0, wgt=0, acc=0, rows=3, columns=4, outputs=8),
    )
    plain = window(Engine.MAC, kernel_y=3, kernel_x=3)
    expected = sums(image, weight, plain, 3, 4, (0, 0))
    assert np.array_equal(bench.core.accumulators.read(0, 96), expected.reshape(-1))


def test_sums_wrap_at_32_bits() -> None:
    """As in the interpreter, where what the bias compensates may pass int32 on the way."""
    bench = Bench.of()
    bench.put_codes(0, np.full((1, 64), -(1 << 15)), 16)
    bench.put(Memory.WEIGHT, 0, np.full(64, -128, np.int8))
    gemm = Gemm(act=0, wgt=0, acc=0, rows=1, columns=1, outputs=1, accumulate=True)
    bench.core.accumulators.write(0, np.array([(1 << 31) - 1]))
    bench.run(window(Engine.MAC), operands(act_bits=16, channels=64), gemm)
    assert bench.core.accumulators.read(0, 1)[0] == (1 << 31) - 1 + 64 * (1 << 22) - (1 << 32)


@pytest.mark.parametrize(
    ("gemm", "message"),
    [
        ({"act": 8190}, "reaches bytes 8190..8193 of the activation memory, which has 8192"),
        ({"act": 100}, "reads byte 100 of the activation memory, which nobody has written"),
        ({"wgt": 6142}, "reaches bytes 6142..6145 of the weight memory, which has 6144"),
        ({"wgt": 2}, "reads byte 4 of the weight memory, which nobody has written"),
        ({"acc": 1536}, "reaches words 1536..1536 of the accumulators, which have 1536"),
        ({"accumulate": True}, "reads word 0 of the accumulators, which nobody has written"),
    ],
)
def test_what_lies_outside_or_was_never_written_is_refused(gemm: dict[str, int], message: str) -> None:
    bench = Bench.of()
    bench.put_codes(0, np.zeros((1, 4), np.int64), 8)
    bench.put(Memory.WEIGHT, 0, np.zeros(4, np.int8))
    with pytest.raises(CoreError) as caught:
        plain = {"act": 0, "wgt": 0, "acc": 0, "rows": 1, "columns": 1, "outputs": 1}
        bench.run(window(Engine.MAC), operands(channels=4), Gemm(**{**plain, **gemm}))
    assert message in str(caught.value)


def test_registers_must_be_set() -> None:
    with pytest.raises(CoreError, match="comes before any window of MAC"):
        Bench.of().run(Gemm(act=0, wgt=0, acc=0, rows=1, columns=1, outputs=1))
