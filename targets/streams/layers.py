"""What each operator becomes on the NPU. A new one is a class here, and a line in `layer_of`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from compiler.loops.form import Convolution
from compiler.lowering.program import KernelCall
from compiler.numerics.element import Array, ElementType
from compiler.ops.edge import Requantize
from compiler.ops.matmul import MatMul
from compiler.ops.pooling import AveragePool2D, MaxPool2D
from compiler.ops.reduction import Mean, ReduceMax
from compiler.ops.resize import ResizeBilinear
from schedules.npu_blocks import pack_channel_parameters, pack_weights, weight_ratio
from schedules.npu_emit import Address, Blob, Emitter
from schedules.npu_finish import SIGN_ZERO
from schedules.npu_product import Product, emit_product
from schedules.npu_search import choose_tiling
from schedules.npu_tiling import Shape, Tiling, waits_for_weights
from sim.compression import deflate
from targets.streams import rules
from targets.streams.layer import Layer, Memory
from targets.streams.mapped import MapLayer, RequantizeLayer, maps
from targets.streams.matrices import MatrixLayer
from targets.streams.moves import MoveLayer, moves
from targets.streams.pools import PoolLayer
from targets.streams.reductions import ReduceLayer
from targets.streams.resizes import ResizeLayer
from targets.streams.rules import Rule


def layer_of(call: KernelCall) -> Layer | None:
    """None: the NPU has no such layer."""
    if isinstance(call.lowered.form, Convolution):
        return ProductLayer()
    match call.node.op:
        case _ if moves(call):
            return MoveLayer()
        case MaxPool2D() | AveragePool2D():
            return PoolLayer()
        case Mean() | ReduceMax():
            return ReduceLayer()
        case MatMul():
            return MatrixLayer()
        case ResizeBilinear():
            return ResizeLayer()
        case Requantize():
            return RequantizeLayer()
        case _ if maps(call):
            return MapLayer()
        case _:
            return None


@dataclass(frozen=True, slots=True)
class ProductLayer:
    """Convolution, depthwise and dense: all that has the form `Convolution`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        rules.has_product_types,
        rules.has_small_window,
        rules.fits_scratchpads,
    )

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        image, result = image_of(call, memory), result_of(call, memory)
        shape = shape_of(e, call, image.dram, result.dram)
        tiling = e.chosen.tilings.get(e.layer) or _tiling(shape, e)
        e.products[e.layer] = shape, tiling
        emit_product(e, product_of(e, call, memory, tiling, image, result))


def convolution_of(call: KernelCall) -> Convolution:
    form = call.lowered.form
    assert isinstance(form, Convolution)
    return form


def image_of(call: KernelCall, memory: Memory) -> Address:
    return memory.address(memory.place(call.reads[0]), convolution_of(call).input.dtype.itemsize)


def result_of(call: KernelCall, memory: Memory) -> Address:
    return memory.address(call.places[0], convolution_of(call).output.dtype.itemsize)


def shape_of(e: Emitter, call: KernelCall, image_dram: bool, result_dram: bool) -> Shape:
    form = convolution_of(call)
    ratio = weight_ratio(call.lowered.constants["weight"], form.weight.bits)
    late = e.expects == e.config or waits_for_weights(form, ratio, e.config)
    return Shape(form, image_dram, result_dram, ratio, late)


def product_of(
    e: Emitter, call: KernelCall, memory: Memory, tiling: Tiling, image: Address, result: Address
) -> Product:
    """With its constants in memory."""
    form, constants = convolution_of(call), call.lowered.constants
    weights = {
        key: _blob(memory, packed)
        for key, packed in pack_weights(form, tiling, constants["weight"], e.config)
    }
    zero_in, zero_out, low, high = (int(n) for n in constants["parameters"])
    if form.output is ElementType.I32:
        zero_out, low, high = 0, 0, 0  # unused: results are the accumulators
    elif form.output is ElementType.B1:
        zero_out = SIGN_ZERO
    parameters = memory.constant(pack_channel_parameters(form, constants))
    return Product(form, tiling, image, result, weights, parameters, zero_in, zero_out, low, high)


def _tiling(shape: Shape, e: Emitter) -> Tiling:
    tiling = choose_tiling(shape, e.config, e.mechanisms)
    assert tiling is not None  # where operands lie changes the cost, not what fits
    # Where constants come to SRAM first, FETCH has copies of them to make.
    return tiling if e.expects == e.config else replace(tiling, image_engines=1)


def _blob(memory: Memory, raw: Array) -> Blob:
    """Compressed where that makes it shorter."""
    data = np.ascontiguousarray(raw).view(np.uint8)
    packed = deflate(data)
    if packed.size < data.size:
        return Blob(memory.constant(packed), data.size, packed.size)
    return Blob(memory.constant(data), data.size)
