"""What the NPU takes. A rule is a function whose docstring is what the report says where it does not hold."""

from __future__ import annotations

from collections.abc import Callable

from compiler.loops.form import Convolution
from compiler.lowering.program import KernelCall
from compiler.numerics.element import ElementType
from compiler.ops.elementwise import Add, Mul, Sub
from compiler.ops.pooling import AveragePool2D, MaxPool2D
from compiler.ops.reduction import Mean
from compiler.ops.slicing import Concat, Slice
from schedules.npu_emit import Address
from schedules.npu_search import has_tiling
from schedules.npu_tiling import Shape
from schedules.npu_vector import pool_tile
from sim.config import NpuConfig
from targets.streams.pooling import pooling

Rule = Callable[[KernelCall, NpuConfig], bool]
_CODES = (ElementType.I8, ElementType.I16)


def has_codes(call: KernelCall, config: NpuConfig) -> bool:
    """operands and results must be codes of 8 or 16 bits"""
    results = all(v.type.element in _CODES for v in call.node.outputs)
    return results and all(v.type.element in _CODES for v in call.reads)


def has_product_types(call: KernelCall, config: NpuConfig) -> bool:
    """activations must have 8 or 16 bits, results 8, 16 or 32"""
    form = call.lowered.form
    assert isinstance(form, Convolution)
    return form.input in _CODES and form.output in (*_CODES, ElementType.I32)


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


def pools_evenly(call: KernelCall, config: NpuConfig) -> bool:
    """the mean's divisor differs between positions, for pads are not counted"""
    return not isinstance(call.node.op, AveragePool2D) or call.lowered.constants["shift"].size == 1


def pools_images(call: KernelCall, config: NpuConfig) -> bool:
    """a mean must be over height and width of [N, H, W, C]"""
    op = call.node.op
    return not isinstance(op, Mean) or (op.axes == (1, 2) and call.reads[0].type.rank == 4)


def pools_small_windows(call: KernelCall, config: NpuConfig) -> bool:
    """a window must be below 256 and hold sums of 32 bits, strides and dilation below 32"""
    op = call.node.op
    assert isinstance(op, (Mean, MaxPool2D, AveragePool2D))
    if isinstance(op, Mean):
        extents = call.reads[0].type.shape[1:3]
    else:
        extents = (*op.kernel, *op.pads[:2])
        if max(*op.stride, *op.dilation) >= 32:
            return False
    return max(extents) < 256 and extents[0] * extents[1] * 65535 < 1 << 31


def has_pool_tile(call: KernelCall, config: NpuConfig) -> bool:
    """not even one output pixel, with what its window sees, fits the activation memory twice"""
    nowhere = Address(False, 0)
    return pool_tile(pooling(call, nowhere, 0, nowhere, 0), config) is not None


def has_two_equal_operands(call: KernelCall, config: NpuConfig) -> bool:
    """both operands must be computed tensors of the result's shape"""
    assert isinstance(call.node.op, (Add, Sub, Mul))
    shape = call.node.output.type.shape
    return len(call.reads) == 2 and all(v.type.shape == shape for v in call.reads)


def steps_forward(call: KernelCall, config: NpuConfig) -> bool:
    """a slice must go forward"""
    return not isinstance(call.node.op, Slice) or min(call.node.op.step) > 0


def joins_computed(call: KernelCall, config: NpuConfig) -> bool:
    """a part that is joined is a constant"""
    parts = 1 if call.copies or not isinstance(call.node.op, Concat) else len(call.node.inputs)
    return len(call.reads) == parts


def reason(rules: tuple[Rule, ...], call: KernelCall, config: NpuConfig) -> str | None:
    """Why a call is left to the host, or None where all rules hold."""
    failed = next((r for r in rules if not r(call, config)), None)
    return None if failed is None else (failed.__doc__ or failed.__name__).strip()
