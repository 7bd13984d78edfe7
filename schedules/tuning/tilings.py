"""The tilings of a product on an NPU as a space that a search walks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np

from compiler.numerics.element import Array
from schedules.npu_cost import costs
from schedules.npu_space import Space, tiling_space, with_two_engines
from schedules.npu_tiling import Fold, Shape, Tiling
from sim.config import NpuConfig
from sim.fields import Column

# Of tens of thousands of tilings, those that may be worth a trial: by their cycles over the fewest of the
# analytic model, which errs, and no more than so many.
_WORTH, _MOST = 1.3, 4096
_FIELDS = tuple(f.name for f in dataclasses.fields(Tiling))
# What follows from the other fields.
_FOLLOW = {
    "accumulators",
    "image_slots",
    "image_slot_bytes",
    "result_slots",
    "result_slot_bytes",
    "weight_slots",
}
_DECISIONS = tuple(name for name in _FIELDS if name not in _FOLLOW)
_NEAR = 32


@dataclass(frozen=True)
class TilingSpace:
    """Implements `schedules.tuning.space.Space`. A choice is a row of `table`.

    fits: the core as far as a layer may use it. given: the compiler's own tiling, the default.
    """

    shape: Shape
    fits: NpuConfig
    given: Tiling

    @cached_property
    def _kept(self) -> tuple[Space, Array]:
        """The space, and of each row the cycles by the analytic model with constants in SRAM and in DRAM, and
        of the busiest engine with either."""
        near, far = (replace(self.shape, constants_dram=dram) for dram in (False, True))
        every = with_two_engines(tiling_space(far, self.fits), far)
        models = [costs(every, shape, self.fits) for shape in (near, far)]
        analytic = np.stack([models[0][0], models[1][0], models[0][1], models[1][1]], axis=1)
        over = (analytic[:, :2] / analytic[:, :2].min(axis=0)).min(axis=1)
        own = np.flatnonzero(_equal(every, self.given))[:1]
        best = np.argsort(over, kind="stable")[:_MOST]
        rows = np.union1d(best[over[best] <= _WORTH], own)
        return every.where(rows), analytic[rows]

    @property
    def rows(self) -> Space:
        return self._kept[0]

    @property
    def analytic(self) -> Array:
        """[rows, 4]: cycles with constants in SRAM and in DRAM, and those of the busiest engine."""
        return self._kept[1]

    def __len__(self) -> int:
        return len(self.rows)

    def tiling(self, choice: int) -> Tiling:
        return self.rows.tiling(choice)

    def choice_of(self, tiling: Tiling) -> int | None:
        """None where the space lacks it."""
        found = np.flatnonzero(_equal(self.rows, tiling))
        return int(found[0]) if len(found) else None

    @property
    def default(self) -> int:
        found = self.choice_of(self.given)
        assert found is not None
        return found

    def ordered(self) -> Iterator[int]:
        """The first of each kind (fold, size of a tile, channels, order) by the analytic model, then the
        second of each."""
        space, seen = self.rows, Counter[tuple[int, ...]]()
        order = np.argsort(self.analytic[:, :2].min(axis=1), kind="stable")
        columns = (
            space.fold,
            space.rows * space.columns,
            space.outputs,
            space.reduction,
            space.weights_first,
            space.blocks_shared,
        )
        kinds = np.stack(columns, axis=1)[order]
        turns: list[tuple[int, int]] = []
        for at, kind in zip(order.tolist(), map(tuple, kinds.tolist()), strict=True):
            turns.append((seen[kind], at))
            seen[kind] += 1
        turns.sort(key=lambda pair: pair[0])
        yield from (at for _, at in turns)

    @cached_property
    def _places(self) -> Array:
        """[rows, decisions]: powers of two of what is chosen, a field of two values as much as a factor of
        two."""
        return np.log2(1 + _columns(self.rows, _DECISIONS))

    @cached_property
    def _found(self) -> dict[int, list[int]]:
        """Neighbours that somebody has asked for."""
        return {}

    def neighbours(self, choice: int) -> list[int]:
        """The nearest: extents that go together (channels and those stored together, rows and columns of a
        tile) change together too."""
        if choice in self._found:
            return self._found[choice]
        away = np.abs(self._places - self._places[choice]).sum(axis=1)
        away[choice] = np.inf
        count = min(_NEAR, len(self) - 1)
        found = np.argsort(away, kind="stable")[:count].tolist()
        self._found[choice] = found
        return found

    def drawn(self, random: Random) -> int:
        return random.randrange(len(self))

    @cached_property
    def _features(self) -> Array:
        over = np.log(self.analytic / self.analytic.min(axis=0))
        return np.concatenate([np.log2(1 + _columns(self.rows, _FIELDS)), over], axis=1).astype(np.float32)

    def features(self, choice: int) -> Array:
        return self._features[choice]


def _columns(space: Space, names: Sequence[str]) -> Array:
    return np.stack([np.asarray(getattr(space, n), np.float64) for n in names], axis=1)


def _equal(space: Space, tiling: Tiling) -> Column:
    """Of each row, whether it is that tiling."""
    return np.all([getattr(space, name) == int(getattr(tiling, name)) for name in _FIELDS], axis=0)


def tiling_json(tiling: Tiling) -> list[int]:
    """The fields in their order."""
    return [int(getattr(tiling, name)) for name in _FIELDS]


def tiling_of(numbers: object) -> Tiling:
    """Of `tiling_json`. Errors: ValueError, TypeError where these are no fields of a tiling."""
    if not isinstance(numbers, list) or len(numbers) != len(_FIELDS):
        raise ValueError(f"a tiling has {len(_FIELDS)} fields")
    fields: dict[str, Any] = dict(zip(_FIELDS, map(int, numbers), strict=True))
    fields |= {name: bool(fields[name]) for name in ("whole_image", "weights_first", "blocks_shared")}
    fields["fold"] = Fold(fields["fold"])
    return Tiling(**fields)
