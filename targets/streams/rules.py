"""What the NPU takes. A rule is a function whose docstring is what the report says where it does not hold."""

from __future__ import annotations

from collections.abc import Callable

from compiler.loops.form import Convolution
from compiler.lowering.program import KernelCall
from compiler.numerics.element import ElementType
from schedules.npu_search import has_tiling
from schedules.npu_tiling import Shape
from sim.config import NpuConfig

Rule = Callable[[KernelCall, NpuConfig], bool]
B1, I32 = ElementType.B1, ElementType.I32
_CODES = (ElementType.I8, ElementType.I16)


def has_codes(call: KernelCall, config: NpuConfig) -> bool:
    """operands and results must be codes of 8 or 16 bits"""
    return all(v.type.element in _CODES for v in (*call.node.inputs, *call.node.outputs))


def requantizes_codes(call: KernelCall, config: NpuConfig) -> bool:
    """operands must be codes of 1, 8 or 16 bits or accumulators, results codes of 1, 8 or 16 bits"""
    x, y = call.node.inputs[0], call.node.output
    return x.type.element in (*_CODES, B1, I32) and y.type.element in (*_CODES, B1)


def has_no_floats(call: KernelCall, config: NpuConfig) -> bool:
    """the NPU computes with integers alone"""
    return all(v.type.element is not ElementType.F32 for v in (*call.node.inputs, *call.node.outputs))


def has_integers(call: KernelCall, config: NpuConfig) -> bool:
    """elements must be codes of 8 or 16 bits, or accumulators"""
    moved = [*call.node.inputs, *call.node.outputs]
    return all(v.type.element in (*_CODES, I32) for v in moved)


def has_product_types(call: KernelCall, config: NpuConfig) -> bool:
    """activations must have 1, 8 or 16 bits, results 1, 8, 16 or 32"""
    form = call.lowered.form
    assert isinstance(form, Convolution)
    return form.input in (*_CODES, B1) and form.output in (*_CODES, B1, I32)


def has_small_window(call: KernelCall, config: NpuConfig) -> bool:
    """kernel and pads must be below 256, strides and dilation below 32"""
    f = call.lowered.form
    assert isinstance(f, Convolution)
    bottom = (f.out_height - 1) * f.stride[0] + (f.kernel_height - 1) * f.dilation[0] - f.pad[0] - f.in_height
    right = (f.out_width - 1) * f.stride[1] + (f.kernel_width - 1) * f.dilation[1] - f.pad[1] - f.in_width
    extents = max(f.kernel_height, f.kernel_width, *f.pad, bottom + 1, right + 1)
    return extents < 256 and max(*f.stride, *f.dilation) < 32


def fits_scratchpads(call: KernelCall, config: NpuConfig) -> bool:
    """not even one output pixel, with its part of image and weights, fits the scratchpads"""
    form = call.lowered.form
    assert isinstance(form, Convolution)
    return has_tiling(Shape(form, False, False), config)


def reason(rules: tuple[Rule, ...], call: KernelCall, config: NpuConfig) -> str | None:
    """Why a call is left to the host, or None where all rules hold."""
    failed = next((r for r in rules if not r(call, config)), None)
    return None if failed is None else (failed.__doc__ or failed.__name__).strip()
