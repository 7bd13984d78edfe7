"""How a layer on an NPU that is no product is cut, as a space that a search walks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from random import Random

import numpy as np

from compiler.numerics.element import Array
from schedules.npu_choices import Manner

MANNERS = tuple(Manner(grain, alone) for grain, alone in product((1, 0.25, 0.5, 2, 4, 16), (False, True)))


@dataclass(frozen=True)
class MannerSpace:
    """Implements `schedules.tuning.space.Space`. A choice is a place in `MANNERS`; number: of the call."""

    number: int

    def __len__(self) -> int:
        return len(MANNERS)

    def manner(self, choice: int) -> Manner:
        return MANNERS[choice]

    def choice_of(self, manner: Manner) -> int | None:
        return MANNERS.index(manner) if manner in MANNERS else None

    @property
    def default(self) -> int:
        return MANNERS.index(Manner())

    def ordered(self) -> Iterator[int]:
        yield from range(len(MANNERS))

    def neighbours(self, choice: int) -> list[int]:
        return [n for n in range(len(MANNERS)) if n != choice]

    def drawn(self, random: Random) -> int:
        return random.randrange(len(MANNERS))

    def features(self, choice: int) -> Array:
        manner = MANNERS[choice]
        return np.array([np.log2(manner.grain), manner.alone], np.float32)


def manner_json(manner: Manner) -> list[float]:
    return [manner.grain, int(manner.alone)]


def manner_of(numbers: object) -> Manner:
    """Of `manner_json`. Errors: ValueError, TypeError where these are no fields of a manner."""
    if not isinstance(numbers, list) or len(numbers) != 2:
        raise ValueError("a manner has 2 fields")
    grain, alone = numbers
    return Manner(float(grain), bool(alone))
