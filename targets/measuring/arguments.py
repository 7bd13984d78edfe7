"""Operands of kernels that this computer measures, as ctypes passes them: random activations, the model's
constants or random ones, and what the form makes of them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from compiler.loops.evaluate import evaluate
from compiler.loops.evaluate_convolution import evaluate_convolution
from compiler.loops.form import Buffer, Convolution, Form, LoopForm, Role
from compiler.loops.nest import span_of, strides_of
from compiler.lowering.kernel import KernelPlan, cpu_of
from compiler.numerics.element import Array, ElementType
from schedules.bits import pack_bits, packed_bytes
from targets.measuring.operands import activations_of, random_constants

# Memory that kernels may read beside an operand, and never write.
_GUARD = 256
_GARBAGE = 0x5A
Constants = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Case:
    """activations: codes of the inputs by name; expected: of the outputs."""

    constants: Constants
    activations: Mapping[str, Array]
    expected: Mapping[str, Array]


def case_of(form: Form, constants: Constants | None, seed: int = 0) -> Case:
    """constants: of the form; None draws those of a convolution.

    Errors: ValueError for a loop form with constants where none are given: indices among them could be
    anything; IndexError where they do not fit the form.
    """
    rng = np.random.default_rng(seed)
    if constants is None:
        constants = random_constants(form, rng) if isinstance(form, Convolution) else {}
    missing = [b.name for b in _operands(form, Role.CONSTANT) if b.name not in constants]
    if missing:
        raise ValueError(f"form {_name(form)} needs constants that are not given: {', '.join(missing)}")
    reach = 20_000 // form.taps if isinstance(form, Convolution) else 1 << 15
    inputs = {b.name: _random(b, rng, reach) for b in _operands(form, Role.INPUT)}
    if isinstance(form, Convolution):
        expected = {"output": evaluate_convolution(form, inputs["input"], constants)}
    else:
        expected = evaluate(form, {**inputs, **constants})
    return Case(constants, inputs, expected)


def _name(form: Form) -> str:
    return form.name if isinstance(form, LoopForm) else "convolution"


def _operands(form: Form, role: Role) -> list[Buffer]:
    """Of one role. A convolution's constants are not described."""
    buffers = form.operands if isinstance(form, LoopForm) else activations_of(form)
    return [b for b in buffers if b.role is role]


def _random(buffer: Buffer, rng: np.random.Generator, reach: int) -> Array:
    """reach: of codes wider than bytes, so that no sum leaves its type."""
    element, shape = buffer.element, buffer.shape
    if element is ElementType.F32:
        return rng.uniform(-1, 1, shape).astype(np.float32)
    if element is ElementType.B1:
        return rng.choice(np.array([-1, 1], np.int8), shape)
    low, high = (element.low, element.high) if element.bits <= 8 else (-max(1, reach), max(1, reach))
    return rng.integers(low, high + 1, shape).astype(element.dtype)


class Storage:
    """An operand as a library stores it: aligned, between guards, gaps of strides filled."""

    def __init__(self, buffer: Buffer, activation_offset: int) -> None:
        self.buffer, self.packed = buffer, buffer.element is ElementType.B1
        self.offset = activation_offset if buffer.element is ElementType.I8 else 0
        dtype = np.dtype(np.uint8) if self.offset or self.packed else buffer.element.dtype
        shape, strides, span = buffer.shape, strides_of(buffer), span_of(buffer)
        if self.packed:
            shape = (*shape[:-1], packed_bytes(shape[-1]))
            strides, span = (*(s // 8 for s in strides[:-1]), 1), -(-span // 8)
        self._bytes = aligned(span * dtype.itemsize)
        self._inside = self._bytes[_GUARD : _GUARD + span * dtype.itemsize].view(dtype)
        self._view = as_strided(self._inside, shape, [s * dtype.itemsize for s in strides])

    def stored(self, codes: Array) -> Array:
        """Codes as they are stored."""
        if self.packed:
            return pack_bits(codes)
        return codes.astype(np.int16) + self.offset if self.offset else codes

    def put(self, codes: Array) -> None:
        self._view[...] = self.stored(codes)

    @property
    def address(self) -> int:
        return self._inside.ctypes.data

    def difference(self, codes: Array) -> str | None:
        """How the contents differ from `codes` and from garbage beside them; None where they do not."""
        wanted = self.stored(codes)
        wrong = self._view != wanted
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            found, right = self._view[place], np.asarray(wanted)[place]
            return (
                f"{int(wrong.sum())} of {wrong.size} elements of {self.buffer.name} are wrong, "
                f"the first at {place}: {found} instead of {right}"
            )
        self._view[...] = np.full(1, _GARBAGE, np.uint8).repeat(self._view.itemsize).view(self._view.dtype)[0]
        outside = (self._bytes != _GARBAGE).any()
        self._view[...] = wanted
        return f"it wrote beside {self.buffer.name}" if outside else None


def aligned(size: int) -> Array:
    """uint8 of garbage with guards around `size` bytes, which begin at a multiple of 64."""
    raw = np.full(size + 2 * _GUARD + 64, _GARBAGE, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size + 2 * _GUARD]


class Arguments:
    """The operands of a plan in memory. copies: of its constants, which calls take by turns."""

    def __init__(self, plan: KernelPlan, case: Case, copies: int) -> None:
        offset = cpu_of(plan).activation_offset
        self.storages = {
            b.name: Storage(b, offset)
            for role in (Role.INPUT, Role.OUTPUT)
            for b in _operands(plan.form, role)
        }
        for name, codes in case.activations.items():
            self.storages[name].put(codes)
        self._case = case
        packed = plan.pack(case.constants)
        self._kept = [{name: _placed(array) for name, array in packed.items()} for _ in range(copies)]
        self._scratch = aligned(plan.scratch_bytes)
        self.pointers = [self._pointers(plan, constants) for constants in self._kept]

    def _pointers(self, plan: KernelPlan, constants: Mapping[str, Array]) -> list[ctypes.c_void_p]:
        addresses = {
            **{name: storage.address for name, storage in self.storages.items()},
            **{name: array.ctypes.data + _GUARD for name, array in constants.items()},
            "scratch": self._scratch.ctypes.data + _GUARD,
        }
        return [ctypes.c_void_p(addresses[name]) for name in plan.operands]

    def difference(self) -> str | None:
        """How the outputs differ from what the form says."""
        found = (self.storages[name].difference(codes) for name, codes in self._case.expected.items())
        return next((text for text in found if text), None)


def constant_bytes(plan: KernelPlan, case: Case) -> int:
    return sum(array.nbytes for array in plan.pack(case.constants).values())


def _placed(array: Array) -> Array:
    """The bytes of an array between guards."""
    place = aligned(array.nbytes)
    place[_GUARD : _GUARD + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return place
