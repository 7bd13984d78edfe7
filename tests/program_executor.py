"""Runs a program in numpy over real bytes: placement and aliasing are tested without building a kernel.

Every operand is read and written where the program says, in an arena that starts as noise; what a step
computes comes from its loop form. Codes are stored as they are (no offset).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import as_strided

from compiler.loops.contraction import evaluate_convolution
from compiler.loops.evaluate import evaluate
from compiler.loops.form import Convolution, Form, LoopForm, Role
from compiler.lowering.kernel import structural_digest
from compiler.lowering.machine import CpuMachine
from compiler.lowering.program import ConstantPlace, Program, ProgramStep, ScratchPlace
from compiler.lowering.storage import Place, StorageBuffer
from compiler.numerics.element import Array, ElementType
from schedules.bits import pack_bits, packed_bytes, unpack_bits
from schedules.machines import MACHINES


@dataclass(frozen=True)
class ReferencePlan:
    """A plan that is its form: operands in the form's order, constants as they are, never built."""

    form: Form
    machine: CpuMachine = MACHINES[0]
    config: int = 0
    tiles: int = 1
    scratch_bytes: int = 0

    @property
    def symbol(self) -> str:
        return f"reference_{structural_digest(self.form)}"

    @property
    def operands(self) -> tuple[str, ...]:
        return tuple(name for name, *_ in operand_layouts(self.form))

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        return dict(constants)

    def build(self) -> bytes:
        raise NotImplementedError


@dataclass(frozen=True)
class Layout:
    """strides: in elements."""

    role: Role
    shape: tuple[int, ...]
    element: ElementType
    strides: tuple[int, ...] | None


def operand_layouts(form: Form) -> list[tuple[str, Layout]]:
    """Name and layout of every operand of a form, in order."""
    if isinstance(form, LoopForm):
        return [
            (b.name, Layout(b.role, b.shape, b.element, b.strides))
            for b in form.buffers
            if b.role is not Role.SCRATCH
        ]
    channels, i32 = (form.out_channels,), ElementType.I32
    kernel = (form.out_channels, form.kernel_height, form.kernel_width, form.in_channels // form.groups)
    x = (form.batch, form.in_height, form.in_width, form.in_channels)
    y = (form.batch, form.out_height, form.out_width, form.out_channels)
    factors = ("multiplier", "shift") if form.requantizes else ()
    return [
        ("input", Layout(Role.INPUT, x, form.input, pixel_strides(x, form.input_pitch))),
        ("weight", Layout(Role.CONSTANT, kernel, ElementType.I8, None)),
        ("bias", Layout(Role.CONSTANT, channels, i32, None)),
        *((name, Layout(Role.CONSTANT, channels, i32, None)) for name in factors),
        ("parameters", Layout(Role.CONSTANT, (4,), i32, None)),
        ("output", Layout(Role.OUTPUT, y, form.output, pixel_strides(y, form.output_pitch))),
    ]


def is_packed(layout: Layout) -> bool:
    return layout.element is ElementType.B1


def stored_layout(layout: Layout) -> Layout:
    """Rows of bits as bytes."""
    if not is_packed(layout):
        return layout
    assert layout.strides is None
    return replace(layout, shape=(*layout.shape[:-1], packed_bytes(layout.shape[-1])))


def pixel_strides(shape: tuple[int, ...], pitch: int | None) -> tuple[int, ...] | None:
    _, height, width, _ = shape
    return None if pitch is None else (height * width * pitch, width * pitch, pitch, 1)


class Executor:
    """One run of a program. results: what each step wrote, by the name of its value, in order."""

    def __init__(self, program: Program, seed: int = 0) -> None:
        self.program = program
        noise = np.random.default_rng(seed)
        self.arena = noise.integers(0, 256, program.memory.arena_bytes, np.uint8)
        self.outputs = [
            noise.integers(0, 256, v.type.count * v.type.element.dtype.itemsize, np.uint8)
            for v in program.graph.outputs
        ]
        self.constants = np.frombuffer(program.constants.contents(), np.uint8)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Errors: AssertionError where a step writes what it still reads."""
        self.inputs = [np.ascontiguousarray(inputs[v.name]).view(np.uint8) for v in self.program.graph.inputs]
        self.inputs = [x.reshape(-1) for x in self.inputs]
        for step in self.program.steps:
            self._step(step)
        return {
            v.name: self.outputs[i].view(v.type.element.dtype).reshape(v.type.shape)
            for i, v in enumerate(self.program.graph.outputs)
        }

    def _step(self, step: ProgramStep) -> None:
        form = step.plan.form
        layouts = operand_layouts(form)
        views = {
            name: self._view(place, stored_layout(layout))
            for (name, layout), place in zip(layouts, step.operands, strict=True)
        }
        outputs = [n for n, layout in layouts if layout.role is Role.OUTPUT]
        inputs = [n for n, layout in layouts if layout.role is Role.INPUT]
        assert len(outputs) == 1
        (output,) = outputs
        for name in inputs:
            # A kernel in place reads each element before it writes it; its operands may be one value twice.
            same = views[name].ctypes.data == views[output].ctypes.data
            in_place = isinstance(form, LoopForm) and form.in_place and same
            if not (in_place and views[name].shape == views[output].shape):
                assert not np.shares_memory(views[name], views[output]), f"{step.node!r} writes over {name}"
        arrays = {
            name: unpack_bits(views[name].view(np.uint8), layout.shape[-1])
            if is_packed(layout)
            else views[name].copy()
            for name, layout in layouts
            if layout.role is not Role.OUTPUT
        }
        result = _evaluate(form, arrays)
        layout = dict(layouts)[output]
        if is_packed(layout):
            result = pack_bits(result.reshape(layout.shape)).view(np.int8)
        views[output][...] = result.reshape(views[output].shape)

    def _view(self, place: Place | ConstantPlace | ScratchPlace, layout: Layout) -> Array:
        match place:
            case ConstantPlace(offset):
                memory = self.constants[offset:]
            case Place(buffer, offset):
                memory = self._memory(buffer)[offset * layout.element.dtype.itemsize :]
            case ScratchPlace():
                raise AssertionError("reference plans have no scratch")
        dtype = layout.element.dtype
        strides = layout.strides or dense_strides(layout.shape)
        extent = 1 + sum((n - 1) * s for n, s in zip(layout.shape, strides, strict=True))
        assert memory.nbytes >= extent * dtype.itemsize, f"{layout} leaves its memory"
        flat = memory[: extent * dtype.itemsize].view(dtype)
        return as_strided(flat, layout.shape, [s * dtype.itemsize for s in strides])

    def _memory(self, buffer: StorageBuffer) -> Array:
        if buffer.input_port is not None:
            return self.inputs[buffer.input_port]
        if buffer.output_port is not None:
            return self.outputs[buffer.output_port]
        start = self.program.offsets[buffer]
        return self.arena[start : start + buffer.size]


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[d + 1 :])) for d in range(len(shape)))


def _evaluate(form: Form, arrays: Mapping[str, Array]) -> Array:
    if isinstance(form, Convolution):
        return evaluate_convolution(form, arrays["input"], arrays)
    (result,) = evaluate(form, arrays).values()
    return result
