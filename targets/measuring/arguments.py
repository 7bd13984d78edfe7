"""Operands of kernels that this computer measures: each between guards, as ctypes passes it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np

from compiler.lowering.kernel import KernelPlan, cpu_of
from compiler.lowering.program import SCRATCH
from compiler.numerics.element import Array
from targets.measuring.operands import GARBAGE, Example, activations_of, difference, store

# Memory that kernels may read beside an operand, and never write.
_GUARD = 256
_MOST_COPIES = 8


class Arguments:
    """The operands of a plan in memory. pointers: of one call each; they differ in their copy of the
    constants."""

    def __init__(self, plan: KernelPlan, example: Example, apart_bytes: int) -> None:
        """apart_bytes: that calls read before they come back to a copy of the constants, as far as eight
        copies hold so much."""
        self._machine = cpu_of(plan)
        self._buffers = {b.name: b for b in activations_of(example.form)}
        stored = store(plan, example)
        known = {name: stored.before[name] for name in self._buffers}
        self._expected: dict[str, Array] = {**known, **stored.after}
        fixed = {name for name in stored.before if name in known or name == SCRATCH}
        self._memory = {name: _guarded(stored.before[name]) for name in fixed}
        constants = {name: stored.before[name] for name in stored.before if name not in fixed}
        size = sum(array.nbytes for array in constants.values())
        copies = max(1, min(_MOST_COPIES, apart_bytes // max(1, size)))
        self._kept = [{n: _guarded(array) for n, array in constants.items()} for _ in range(copies)]
        self.pointers = [self._pointers(plan, kept) for kept in self._kept]

    def _pointers(self, plan: KernelPlan, constants: Mapping[str, Array]) -> list[ctypes.c_void_p]:
        memory = {**self._memory, **constants}
        return [ctypes.c_void_p(memory[name].ctypes.data + _GUARD) for name in plan.operands]

    def difference(self) -> str | None:
        """How the activations differ from what the form says, or what was written beside them."""
        for name, buffer in self._buffers.items():
            found, expected = self._memory[name][_GUARD:-_GUARD], self._expected[name]
            words = difference(buffer, self._machine, found, expected)
            if words is not None:
                return words
        beside = (name for name, memory in self._memory.items() if not _is_untouched(memory))
        return next((f"it wrote beside {name}" for name in beside), None)


def _guarded(contents: Array) -> Array:
    """A copy of bytes that begins at a multiple of 64, between guards, which belong to the result."""
    size = contents.size + 2 * _GUARD
    raw = np.full(size + 64, GARBAGE, np.uint8)
    start = -raw.ctypes.data % 64
    place = raw[start : start + size]
    place[_GUARD:-_GUARD] = contents
    return place


def _is_untouched(memory: Array) -> bool:
    """Whether the guards are as they were."""
    return bool((memory[:_GUARD] == GARBAGE).all() and (memory[-_GUARD:] == GARBAGE).all())
