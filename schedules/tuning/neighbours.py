"""Which kernels of a model can be changed at once, so that it is seen what each does to the steps behind it.

A kernel leaves caches and memory as it used them: one that is faster itself may make the next ones slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Steps behind a kernel's own that its choice is taken to change.
_REACH = 2


@dataclass(frozen=True, slots=True)
class Windows:
    """order: of a run's steps, whose kernel each one runs."""

    order: tuple[str, ...]

    def of(self, name: str) -> frozenset[int]:
        """The steps of a kernel, and those behind each."""
        own = [i for i, step in enumerate(self.order) if step == name]
        return frozenset(j for i in own for j in range(i, min(i + _REACH + 1, len(self.order))))

    def apart(self, names: Sequence[str]) -> list[list[str]]:
        """The names in few groups; windows of a group have no step in common."""
        groups: list[tuple[list[str], set[int]]] = []
        for name in sorted(names, key=lambda n: -len(self.of(n))):
            window = self.of(name)
            for group, taken in groups:
                if not taken & window:
                    group.append(name)
                    taken |= window
                    break
            else:
                groups.append(([name], set(window)))
        return [group for group, _ in groups]
