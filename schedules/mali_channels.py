"""What convolutions on GPUs share: constants of channels, and the way from an accumulator to a code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compiler.loops.form import Convolution
from compiler.numerics.element import Array, ElementType
from schedules.mali_code import Code, type_of
from schedules.mali_kernel import ClParameter

I32 = ElementType.I32
# Bits that an accumulator may be moved left by, so that its shift becomes 33 and floors nest.
_NESTING_SHIFT = 33
FIELDS = ("bias", "multiplier", "rounding", "shift", "limit", "left")


def convolution_operands(form: Convolution) -> tuple[ClParameter, ...]:
    """input, weight, channels ([field, channel] of FIELDS, the bias alone for raw accumulators), parameters
    (zero point of the input, of the output, low, high), output."""
    return (
        ClParameter("input", form.input, True),
        ClParameter("weight", ElementType.I8, True),
        ClParameter("channels", I32, True),
        ClParameter("parameters", I32, True),
        ClParameter("output", form.output, False),
    )


def refusal(form: Convolution) -> str | None:
    """Why a GPU does not take a convolution."""
    if ElementType.B1 in (form.input, form.output):
        return "codes narrower than a byte are packed and unpacked by the CPU"
    return None


def packed_channels(form: Convolution, constants: Mapping[str, Array], slots: Array) -> Array:
    """int32 [field, slot]. slots: the channel of each slot, or -1.

    The bias takes over the zero point, which stands in for what lies outside the image: bias - zero_point *
    sum(w), whose arithmetic wraps at 32 bits like the accumulators'.
    """
    weight = constants["weight"].reshape(form.out_channels, -1).astype(np.int64)
    bias = constants["bias"].astype(np.int64) - int(constants["parameters"][0]) * weight.sum(axis=1)
    rows = [bias.astype(np.uint64).astype(np.uint32).view(np.int32)]
    if form.requantizes:
        shift = np.maximum(constants["shift"].astype(np.int64), 3)  # what is far outside a code stays there
        left = np.maximum(_NESTING_SHIFT - shift, 0)
        raised = np.maximum(shift, _NESTING_SHIFT)
        right = raised - 32
        rows += [constants["multiplier"], 1 << (right - 1), right, ((1 << 31) - 1) >> left, left]
    table = np.zeros((len(rows), len(slots)), np.int32)
    used = slots >= 0
    table[:, used] = np.stack(rows)[:, slots[used]]
    return table


def declare_channels(code: Code, form: Convolution, first: str, lanes: int, slots: int) -> None:
    """The fields of `lanes` channels from slot `first` on, and the parameters."""
    code.add(f"const int first = {first};")
    for index, name in enumerate(FIELDS if form.requantizes else FIELDS[:1]):
        code.add(
            f"const {type_of(I32, lanes)} {name} = {_loaded(f'p_channels + {index * slots} + first', lanes)};"
        )


def finished(code: Code, form: Convolution, accumulator: str, lanes: int) -> str:
    """The name of the output's elements: of `lanes` channels, as the output stores them."""
    if not form.requantizes:
        return accumulator
    of = type_of(I32, lanes)
    result = code.name("code")
    moved = f"(max(min({accumulator}, limit), ~limit) << left)"
    scaled = f"((mul_hi({moved}, multiplier) + rounding) >> shift) + p_parameters[1]"
    code.add(f"{of} {result} = {scaled};")
    code.add(f"{result} = max(min({result}, ({of})(p_parameters[3])), ({of})(p_parameters[2]));")
    stored = type_of(form.output, lanes)
    return f"({stored})({result})" if lanes == 1 else f"convert_{stored}({result})"


def stored(code: Code, form: Convolution, value: str, address: str, lanes: int, channels: int) -> None:
    """Stores channels first, first + 1, … as far as there are `channels` of them. address: of the first."""
    if lanes == 1:
        code.add(f"p_output[{address}] = {value};")
        return
    name = code.name("result")
    code.add(f"const {type_of(form.output, lanes)} {name} = {value};")
    if channels % lanes == 0:
        code.add(f"vstore{lanes}({name}, 0, p_output + {address});")
        return
    with code.block(f"if (first + {lanes} <= {channels})"):
        code.add(f"vstore{lanes}({name}, 0, p_output + {address});")
    with code.block("else"):
        rest = channels % lanes
        for lane in range(rest):
            code.add(f"p_output[{address} + {lane}] = {name}.s{lane:x};")


def _loaded(pointer: str, lanes: int) -> str:
    return f"*({pointer})" if lanes == 1 else f"vload{lanes}(0, {pointer})"


def outside_needed(form: Convolution) -> tuple[bool, bool]:
    """Whether some rows, and some columns, that the kernel reads lie outside of the image."""

    def needed(out: int, stride: int, kernel: int, dilation: int, pad: int, size: int) -> bool:
        return pad > 0 or (out - 1) * stride + (kernel - 1) * dilation - pad >= size

    rows = needed(
        form.out_height, form.stride[0], form.kernel_height, form.dilation[0], form.pad[0], form.in_height
    )
    columns = needed(
        form.out_width, form.stride[1], form.kernel_width, form.dilation[1], form.pad[1], form.in_width
    )
    return rows, columns
