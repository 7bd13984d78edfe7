"""What makes schedules for the NPU fast, one by one: each can be left out, to see what it earns."""

from __future__ import annotations

from enum import Enum


class Mechanism(Enum):
    """The value says what it does."""

    FOLDING = "kernels folded into the reduction, where images have few channels"
    ENGINES = "images or weights by LOAD and FETCH in turn"
    TRIALS = "tilings tried on the simulator, rather than the analytic model's first choice"
    ORDER = "instructions dispatched in the order of their starts"
    CASCADE = "images between a product and a depthwise convolution kept in the core"
    STAGING = "constants copied to SRAM while FETCH would be idle"


Mechanisms = frozenset[Mechanism]
ALL: Mechanisms = frozenset(Mechanism)
