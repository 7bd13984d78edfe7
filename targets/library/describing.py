"""Program -> library description: bytes instead of elements, storage types instead of codes."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ir.graph import Value
from compiler.lowering.machine import CpuMachine
from compiler.lowering.memory_plan import ALIGNMENT
from compiler.lowering.program import ConstantPlace, Program, ProgramStep, ScratchPlace
from compiler.lowering.storage import Place, StorageBuffer, dense_strides
from compiler.numerics.element import ElementType
from compiler.ops.edge import Dequantize, Quantize
from schedules.machines import cpu_models
from targets.library.description import (
    Arena,
    Constant,
    CpuFeature,
    DType,
    Edge,
    Input,
    LibraryDescription,
    Operand,
    Output,
    Port,
    Scratch,
    Step,
    Variant,
    View,
)


def describe(
    name: str, variants: Mapping[str, tuple[Program, CpuMachine]], threads: int = 0
) -> LibraryDescription:
    """The library `name` of programs over the same constants, each planned for its machine, by variant.

    threads: see `LibraryDescription`.
    """
    described = [_Describer(program, machine).describe(v) for v, (program, machine) in variants.items()]
    described.sort(key=lambda variant: -len(variant.cpu_features))
    constants = next(program.constants for program, _ in variants.values())
    return LibraryDescription(name, constants.contents(), tuple(described), threads=threads)


class _Describer:
    def __init__(self, program: Program, machine: CpuMachine) -> None:
        self.program, self.machine = program, machine

    def describe(self, name: str) -> Variant:
        graph = self.program.graph
        return Variant(
            name=name,
            steps=tuple(self._step(i, s) for i, s in enumerate(self.program.steps)),
            # Slack in front and behind, which kernels may read.
            arena_bytes=self.program.memory.arena_bytes + 2 * ALIGNMENT,
            inputs=tuple(self._port(v, Quantize) for v in graph.inputs),
            outputs=tuple(self._port(v, Dequantize) for v in graph.outputs),
            scratch_bytes_per_thread=self.program.scratch_bytes,
            cpu_features=tuple(CpuFeature(f) for f in self.machine.required_features),
            models=cpu_models(self.machine),
        )

    def _step(self, index: int, step: ProgramStep) -> Step:
        result = step.writes[0] if len(step.writes) == 1 and step.completes else None
        return Step(
            kernel=step.plan.symbol,
            operands=tuple(self._operand(o, step) for o in step.operands),
            tiles=step.plan.tiles,
            label=f"{index}:{step.writes[0].name}",
            layer=" + ".join(step.node.location.names) or step.node.op.mnemonic,
            result=None if result is None else self._view(result),
        )

    def _operand(self, operand: Place | ConstantPlace | ScratchPlace, step: ProgramStep) -> Operand:
        match operand:
            case ConstantPlace(offset):
                return Constant(offset)
            case ScratchPlace():
                return Scratch(0)
            case Place(buffer, offset):
                value = next(v for v in buffer.values if v in (*step.reads, *step.writes))
                return self._address(buffer, offset * value.type.element.dtype.itemsize)

    def _address(self, buffer: StorageBuffer, byte_offset: int) -> Arena | Input | Output:
        if buffer.input_port is not None:
            return Input(buffer.input_port)
        if buffer.output_port is not None:
            return Output(buffer.output_port)
        return Arena(ALIGNMENT + self.program.offsets[buffer] + byte_offset)

    def _view(self, value: Value) -> View | None:
        place = self.program.places[value]
        address = self._address(place.buffer, place.offset * value.type.element.dtype.itemsize)
        if isinstance(address, Input):
            return None
        element = value.type.element
        if element is ElementType.B1:
            bits = packed_strides(value.type.shape)
            return View(address, DType.INT8, value.type.shape, bits, DType.UINT8, packed=True)
        dtype = DType(str(element.dtype))
        offset = self.machine.activation_offset if element is ElementType.I8 else 0
        storage = DType.UINT8 if offset else dtype
        strides = place.strides or dense_strides(value.type.shape)
        return View(address, dtype, value.type.shape, strides, storage, offset)

    def _port(self, value: Value, edge: type[Quantize] | type[Dequantize]) -> Port:
        dtype = DType(str(value.type.element.dtype))
        buffer = self.program.places[value].buffer  # Views of the port use it too.
        steps = [
            i
            for i, s in enumerate(self.program.steps)
            if any(self.program.places[v].buffer is buffer for v in (*s.reads, *s.writes))
        ]
        found: Edge | None = None
        if len(steps) == 1 and isinstance(self.program.steps[steps[0]].node.op, edge):
            step = self.program.steps[steps[0]]
            codes = step.writes[0] if edge is Quantize else step.reads[0]
            view = self._view(codes)
            if view is not None and not view.packed and isinstance(view.place, Arena):
                of = codes.type.codes
                found = Edge(steps[0], view, of.scale, of.zero_point)
        return Port(value.name, dtype, value.type.shape, "", found)


def packed_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in bits of rows that take whole bytes."""
    return dense_strides((*shape[:-1], -(-shape[-1] // 8) * 8))
