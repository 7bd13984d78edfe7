"""Pooling nodes as the schedule's `Pooling`."""

from __future__ import annotations

from compiler.lowering.program import KernelCall
from compiler.ops.pooling import AveragePool2D, MaxPool2D
from compiler.ops.reduction import Mean
from schedules.npu_emit import Address
from schedules.npu_vector import Finish, Pooling
from sim.isa import Reduce


def pooling(
    call: KernelCall, image: Address, image_pitch: int, result: Address, result_pitch: int
) -> Pooling:
    """pitches: bytes between neighbouring pixels."""
    op, x, y = call.node.op, call.reads[0].type, call.node.output.type
    batch, height, width, channels = x.shape
    if isinstance(op, Mean):
        kernel, stride, dilation, pad = (height, width), (1, 1), (1, 1), (0, 0)
    else:
        assert isinstance(op, (MaxPool2D, AveragePool2D))
        kernel, stride, dilation, pad = op.kernel, op.stride, op.dilation, op.pads[:2]
    function, finish, zero_in = _finish(call)
    return Pooling(
        function=function,
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        out_height=y.shape[1],
        out_width=y.shape[2],
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pad=pad,
        image=image,
        image_element=x.element,
        image_pitch=image_pitch,
        zero_in=zero_in,
        result=result,
        result_pitch=result_pitch,
        finish=finish,
    )


def _finish(call: KernelCall) -> tuple[Reduce, Finish, int]:
    """Function, rescaling and the image's zero point."""
    element, constants = call.node.output.type.element, call.lowered.constants
    match call.node.op:
        case MaxPool2D():
            return Reduce.MAX, Finish(element), 0
        case AveragePool2D():
            zero_in, zero_out, low, high = (int(n) for n in constants["parameters"])
            multiplier, shift = (int(constants[n].reshape(-1)[0]) for n in ("multiplier", "shift"))
        case _:
            zero_in, multiplier, shift, zero_out, low, high = (int(n) for n in constants["parameters"])
    finish = Finish(element, multiplier, 0, shift, zero_out, low, high)
    return Reduce.SUM, finish, zero_in
