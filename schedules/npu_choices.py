"""What may be given for a network on an NPU, where records know better than the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schedules.npu_staging import Staging
from schedules.npu_tiling import Tiling


@dataclass(frozen=True, slots=True)
class Choices:
    """tilings: of products, by the numbers of their calls; others are the compiler's own. stagings: how
    copies of constants are planned in programs, by the numbers of their first calls; others make none."""

    tilings: Mapping[int, Tiling] = field(default_factory=dict[int, Tiling])
    stagings: Mapping[int, Staging] = field(default_factory=dict[int, Staging])
