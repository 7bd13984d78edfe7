"""What a user allows the library to cost: `size<=1.2MB`, `size<=800KiB`, `size<=60%`, `cycles<=80%`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from compiler.ir.diagnostics import BitloomError


class Metric(Enum):
    """What a budget limits. The value of each member is its spelling."""

    SIZE = "size"  # packed bytes of all constants of the quantized graph
    CYCLES = "cycles"  # of the target, where it can count them without a device


_UNITS = {
    Metric.SIZE: {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2},
    Metric.CYCLES: {"": 1, "k": 1000, "M": 1000**2},
}
_GRAMMAR = re.compile(r"\s*(?P<metric>\w+)\s*<=\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>%|[A-Za-z]*)\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `number` units of `metric`; unit "%" is relative to the same model with int8 weights."""

    metric: Metric
    number: float
    unit: str

    @staticmethod
    def parse(text: str) -> Budget:
        """Errors: BitloomError that gives the grammar and lists the known names."""
        match = _GRAMMAR.fullmatch(text)
        if match is None:
            raise BitloomError(f'cannot read the budget "{text}"', "write it as size<=800KiB or size<=60%")
        metrics = {m.value: m for m in Metric}
        if match["metric"] not in metrics:
            raise BitloomError(
                f'budget "{text}": unknown measure "{match["metric"]}"', f"known: {', '.join(metrics)}"
            )
        metric = metrics[match["metric"]]
        if match["unit"] not in ("%", *_UNITS[metric]):
            known = ["%", *(unit or "none" for unit in _UNITS[metric])]
            raise BitloomError(
                f'budget "{text}": unknown unit "{match["unit"]}"', f"known: {', '.join(known)}"
            )
        return Budget(metric, float(match["number"]), match["unit"])

    def limit(self, whole: float) -> float:
        """The largest cost allowed, in bytes or cycles. whole: the cost of the model with int8 weights."""
        if self.unit == "%":
            return whole * self.number / 100
        return self.number * _UNITS[self.metric][self.unit]

    def cost_text(self, cost: float) -> str:
        """`1,234 bytes`, `1,234 cycles`."""
        return f"{cost:,.0f} {'bytes' if self.metric is Metric.SIZE else self.metric.value}"

    def __str__(self) -> str:
        return f"{self.metric.value}<={self.number:g}{self.unit}"
