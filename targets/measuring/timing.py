"""The time of a call, taken until it is steady."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy as np

# Of one repetition, against the clock's own time; of all repetitions of a candidate.
_LEAST_SECONDS, _ALL_SECONDS = 20e-6, 25e-3
_LEAST_REPETITIONS, _MOST_REPETITIONS = 5, 60
# A repetition is the least of so many batches of calls: an interruption hits few of them.
_BATCHES = 3
# A spread above this share of the cost is measured again.
_CALM, _TRIES = 0.03, 3


def steady_seconds(batch_of: Callable[[int], float]) -> tuple[float, float]:
    """Seconds of a call: the median of the repetitions, and half the distance of their quartiles.

    batch_of: makes so many calls, and says the seconds of one.
    """
    once = min(batch_of(1) for _ in range(3))
    batch = max(1, round(_LEAST_SECONDS / once))
    wanted = int(_ALL_SECONDS / (batch * once * _BATCHES))
    repetitions = max(_LEAST_REPETITIONS, min(_MOST_REPETITIONS, wanted))
    found: list[tuple[float, float]] = []
    for _ in range(_TRIES):
        times = [min(batch_of(batch) for _ in range(_BATCHES)) for _ in range(repetitions)]
        quartiles = np.quantile(times, (0.25, 0.75))
        found.append((median(times), float(quartiles[1] - quartiles[0]) / 2))
        if found[-1][1] <= _CALM * found[-1][0]:
            break
    return min(found, key=lambda f: f[1] / f[0])
