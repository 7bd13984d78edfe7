"""Runs the kernels of GPU plans through pyopencl on numpy arrays, every operand between guards."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from compiler.loops.form import Buffer, Convolution, Role
from compiler.numerics.element import Array
from schedules.mali_kernel import SCRATCH, ClPlan
from schedules.mali_prelude import PRELUDE
from tests.loop_kernel import GARBAGE, GUARD, Storage

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install 'bitloom[mali]'")


@cache
def context() -> Any:
    """Of the first device of any platform."""
    try:
        platforms = cl.get_platforms()
    except cl.Error:
        platforms = []
    if not platforms:
        pytest.skip("there is no OpenCL platform: pip install 'bitloom[mali]'")
    return cl.Context([platforms[0].get_devices()[0]])


@cache
def built(source: str) -> Any:
    return cl.Program(context(), source).build()


def run_plans(
    plans: list[tuple[ClPlan, dict[str, Array]]], before: str = "", aliases: Mapping[str, str] | None = None
) -> list[dict[str, Array]]:
    """Outputs by name of each plan for the given INPUT and CONSTANT operands; all in one program.

    before: what stands before the prelude.
    """
    texts = {k.name: k.source for plan, _ in plans for k in plan.kernels}
    program = built(before + PRELUDE + "\n".join(texts.values()))
    return [_run(plan, operands, program, aliases or {}) for plan, operands in plans]


def _run(
    plan: ClPlan, operands: dict[str, Array], program: Any, aliases: Mapping[str, str]
) -> dict[str, Array]:
    queue = cl.CommandQueue(context())
    packed = plan.pack(operands)
    form = plan.form
    buffers = {b.name: b for b in (_operands(form) if isinstance(form, Convolution) else form.operands)}
    stored: dict[str, Storage | Array] = {}
    for name in plan.operands:
        if name == SCRATCH:
            stored[name] = np.full(plan.scratch_bytes + 2 * GUARD, GARBAGE, np.uint8)
            continue
        if name in packed:
            stored[name] = np.concatenate([packed[name].reshape(-1).view(np.uint8), np.zeros(64, np.uint8)])
            continue
        storage = Storage(buffers[name], 0)
        if buffers[name].role is Role.INPUT:
            storage.put(operands[name])
        stored[name] = storage
    contents = {n: np.ascontiguousarray(s.bytes if isinstance(s, Storage) else s) for n, s in stored.items()}
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    memory = {n: cl.Buffer(context(), flags, hostbuf=c) for n, c in contents.items()}
    for name, other in aliases.items():
        memory[name] = memory[other]
    for kernel in plan.kernels:
        arguments: list[Any] = []
        for name in plan.operands:
            guard = GUARD if isinstance(stored[name], Storage) or name == SCRATCH else 0
            arguments += [memory[name], np.int32(guard)]
        function = cl.Kernel(program, kernel.name)
        function(queue, kernel.global_size, kernel.work_group, *arguments)
    results: dict[str, Array] = {}
    for name in plan.operands:
        storage = stored[name]
        if name == SCRATCH:
            cl.enqueue_copy(queue, contents[name], memory[name])
            guards = np.concatenate([contents[name][:GUARD], contents[name][-GUARD:]])
            assert (guards == GARBAGE).all(), f"{plan.symbol} writes outside its scratch memory"
        if isinstance(storage, Storage) and storage.buffer.role is Role.OUTPUT:
            cl.enqueue_copy(queue, contents[name], memory[name])
            storage.bytes[...] = contents[name]
            if name not in aliases:
                assert storage.untouched(), f"{plan.symbol} writes outside {name}"
            results[name] = storage.get()
    return results


def _operands(form: Convolution) -> list[Buffer]:
    def pixels(name: str, size: tuple[int, ...], channels: int, pitch: int | None, role: Role) -> Buffer:
        element = form.input if role is Role.INPUT else form.output
        n, h, w = size
        step = pitch or channels
        return Buffer(name, (n, h, w, channels), element, role, (h * w * step, w * step, step, 1))

    into = (form.batch, form.in_height, form.in_width)
    out = (form.batch, form.out_height, form.out_width)
    return [
        pixels("input", into, form.in_channels, form.input_pitch, Role.INPUT),
        pixels("output", out, form.out_channels, form.output_pitch, Role.OUTPUT),
    ]
