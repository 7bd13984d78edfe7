"""Program -> description of a library whose steps run on an OpenCL device, all but some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compiler.lowering.machine import CpuMachine
from compiler.lowering.memory_plan import ALIGNMENT, aligned
from compiler.lowering.program import Program
from schedules.mali import gpu_plan
from schedules.mali_kernel import program_source
from targets.library.describing import describe
from targets.library.description import (
    Arena,
    Input,
    LibraryDescription,
    Operand,
    Output,
    Port,
    Scratch,
    Step,
    Variant,
)
from targets.library.launch import Launch


def describe_for_device(name: str, variant: str, program: Program, machine: CpuMachine) -> LibraryDescription:
    """The library of a program whose plans are for a GPU, or for `machine` where the CPU takes the step.

    The device reaches the arena and the constants alone: the caller's buffers that it reads or writes are
    copied into the arena in front of all steps, and out of it behind them.
    """
    plain = describe(name, {variant: (program, machine)})
    steps = tuple(
        _with_launches(s, p.plan) for s, p in zip(plain.variants[0].steps, program.steps, strict=True)
    )
    staged = _staged(replace(plain.variants[0], steps=steps), program)
    return replace(plain, variants=(staged,), opencl=kernel_source(program))


def kernel_source(program: Program) -> str:
    """OpenCL C of all kernels of a program, each once."""
    plans = (gpu_plan(plan) for plan in program.kernels().values())
    return program_source(kernel for plan in plans if plan for kernel in plan.kernels)


def _with_launches(step: Step, plan: object) -> Step:
    found = gpu_plan(plan)
    if found is None:
        return step
    launches = (Launch(k.name, k.global_size, k.work_group) for k in found.kernels)
    return replace(step, launches=tuple(launches))


def _staged(variant: Variant, program: Program) -> Variant:
    touched = {o for s in variant.steps if s.launches for o in s.operands if isinstance(o, Input | Output)}
    places: dict[Operand, Arena] = {}
    end = aligned(variant.arena_bytes)
    on_device, on_cpu = _scratch_bytes(program)
    scratch: dict[Operand, Arena] = {Scratch(): Arena(end)}  # one for all: kernels run one after another
    end += aligned(on_device)
    copies_in: list[Step] = []
    copies_out: list[Step] = []
    for operand in sorted(touched, key=repr):
        port = (variant.inputs if isinstance(operand, Input) else variant.outputs)[operand.index]
        place = places[operand] = Arena(end)
        end += aligned(port.bytes) + ALIGNMENT  # kernels may read some bytes behind
        if isinstance(operand, Input):
            copies_in.append(_copy(port, (operand, place), "in"))
        else:
            copies_out.append(_copy(port, (place, operand), "out"))
    moved = [_moved(s, places | scratch if s.launches else places) for s in variant.steps]
    steps = [*copies_in, *moved, *copies_out]
    later = len(copies_in)
    return replace(
        variant,
        steps=tuple(steps),
        arena_bytes=end,
        scratch_bytes_per_thread=on_cpu,
        inputs=tuple(_delayed(port, later) for port in variant.inputs),
        outputs=tuple(_delayed(port, later) for port in variant.outputs),
    )


def _scratch_bytes(program: Program) -> tuple[int, int]:
    """What kernels of the device need at most, and kernels of the CPU for each thread."""
    device, cpu = 0, 0
    for step in program.steps:
        plan = gpu_plan(step.plan)
        if plan is None:
            cpu = max(cpu, step.plan.scratch_bytes)
        else:
            device = max(device, plan.scratch_bytes)
    return device, cpu


def _copy(port: Port, operands: tuple[Operand, Operand], way: str) -> Step:
    return Step("memcpy", operands, 1, f"{way}:{port.name}", port.name, copies=port.bytes)


def _moved(step: Step, places: Mapping[Operand, Arena]) -> Step:
    operands = tuple(places.get(o, o) for o in step.operands)
    result = step.result
    if result is not None and result.place in places:
        result = replace(result, place=places[result.place])
    return replace(step, operands=operands, result=result)


def _delayed(port: Port, by: int) -> Port:
    return port if port.edge is None else replace(port, edge=replace(port.edge, step=port.edge.step + by))
