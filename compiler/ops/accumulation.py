"""Sums of codes that may pass int32: held in 64 bits, and cut to 32 bits before the one rounding."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.loops.expression import Expression
from compiler.numerics.element import Array, ElementType

I32, I64 = ElementType.I32, ElementType.I64


@dataclass(frozen=True, slots=True)
class Accumulator:
    """How a sum is held: in int32, or in int64 and then without its lowest `drop` bits (their floor).

    Both depend on element widths and lengths alone, never on zero points: equal structure, equal form.
    Dropping keeps 31 significant bits of the largest sum that is possible.
    """

    element: ElementType
    drop: int

    @classmethod
    def holding(cls, worst: int) -> Accumulator:
        """For sums of magnitude at most `worst` < 2**62."""
        if worst < 1 << 31:
            return cls(I32, 0)
        return cls(I64, worst.bit_length() - 31)

    def narrow(self, total: Array) -> Array:
        """floor(total / 2**drop), which fits int32."""
        return total >> self.drop

    def narrowed(self, total: Expression) -> Expression:
        """`narrow` as an I32 expression."""
        return total if self.element is I32 else (total >> self.drop).cast(I32)


def spread(element: ElementType) -> int:
    """Largest magnitude of code - zero_point, whatever the zero point."""
    return element.high - element.low
