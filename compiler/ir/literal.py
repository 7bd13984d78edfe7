"""Constant tensors as attributes: compared and hashed by content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.ir.op import Arrays, Lowered, Op, Operand, Types
from compiler.ir.types import TensorType
from compiler.numerics.element import Array


class Literal:
    """A read-only array. Equality and hash are by dtype, shape and bytes."""

    __slots__ = ("_digest", "array")

    def __init__(self, array: Array) -> None:
        # ascontiguousarray would turn a scalar into a vector.
        self.array = np.array(array, order="C", copy=True)
        self.array.setflags(write=False)
        self._digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256 of dtype, shape and contents."""
        if self._digest is None:
            head = f"{self.array.dtype.str}{self.array.shape}".encode()
            self._digest = hashlib.sha256(head + self.array.tobytes()).digest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Literal({self.array.dtype.str}{list(self.array.shape)} {self.digest.hex()[:12]})"


@dataclass(frozen=True, slots=True)
class Constant(Op):
    """A tensor known at compile time; sub-byte codes are held one per int8."""

    mnemonic: ClassVar[str] = "constant"
    value: Literal
    type: TensorType

    def __post_init__(self) -> None:
        array = self.value.array
        if array.shape != self.type.shape or array.dtype != self.type.element.dtype:
            raise ValueError(f"constant {array.dtype}{array.shape} declared as {self.type}")

    @classmethod
    def of(cls, array: Array, type_: TensorType) -> Constant:
        return cls(Literal(np.asarray(array, type_.element.dtype)), type_)

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        return (self.type,)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (self.value.array,)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (self.value.array,)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        raise TypeError("a constant is an operand, not a kernel")
