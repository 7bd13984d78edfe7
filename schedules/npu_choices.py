"""What may be given for a network on an NPU, where records know better than the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schedules.npu_staging import PLAIN, Staging
from schedules.npu_tiling import Tiling


@dataclass(frozen=True, slots=True)
class Choices:
    """tilings: of products, by the numbers of their calls; others are the compiler's own."""

    tilings: Mapping[int, Tiling] = field(default_factory=dict[int, Tiling])
    staging: Staging = PLAIN
