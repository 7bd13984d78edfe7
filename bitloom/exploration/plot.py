"""The plot of an exploration: an SVG file, written by hand, as no package is needed for circles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from bitloom.exploration.evaluation import Result
from bitloom.exploration.reporting import point_text

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 760, 520, 84, 56, 40, 30
_SMALLEST, _LARGEST = 4.0, 16.0  # radii
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.t{text-anchor:middle}.y{text-anchor:end}"
    "line{stroke:#ddd}circle{fill:#9ab;fill-opacity:.5;stroke:#678}.f{fill:#d62;stroke:#a30}"
)


def plot(results: Sequence[Result], front: Sequence[bool]) -> str:
    """Cycles to the right, energy upwards, both logarithmic; a circle's area is the proxy of silicon, and the
    front is red. What stands under the pointer is named by its knobs."""
    shown = [(r, f) for r, f in zip(results, front, strict=True) if not r.reason]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22">{len(shown)} configurations, {sum(front)} on the front (red); '
        "a circle's area is the proxy of silicon</text>",
    ]
    if shown:
        lines += _drawn(shown)
    return "\n".join([*lines, "</svg>", ""])


def _drawn(shown: Sequence[tuple[Result, bool]]) -> Iterator[str]:
    x = _Axis.of([r.cycles for r, _ in shown], _LEFT, _WIDTH - _RIGHT)
    y = _Axis.of([r.energy_pj / 1e6 for r, _ in shown], _HEIGHT - _BOTTOM, _TOP)
    for value in x.ticks():
        at = x.place(value)
        yield f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        yield f'<text class="t" x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 18}">{value:,.4g}</text>'
    for value in y.ticks():
        at = y.place(value)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="y" x="{_LEFT - 8}" y="{at + 4:.1f}">{value:,.4g}</text>'
    yield f'<text class="t" x="{_WIDTH / 2}" y="{_HEIGHT - 14}">cycles</text>'
    yield f'<text x="8" y="{_TOP - 6}">energy, uJ</text>'
    largest = max(r.area for r, _ in shown)
    # Large circles first, the front last: none hides another that matters more.
    for r, on_front in sorted(shown, key=lambda pair: (pair[1], -pair[0].area)):
        radius = max(_SMALLEST, _LARGEST * math.sqrt(r.area / largest))
        name = ", ".join(f"{key}={point_text(key, value)}" for key, value in r.point.items())
        said = f"{name}: {r.cycles:,} cycles, {r.energy_pj / 1e6:.2f} uJ, area {r.area:,.0f}"
        yield (
            f'<circle{" class=" + chr(34) + "f" + chr(34) if on_front else ""} cx="{x.place(r.cycles):.1f}" '
            f'cy="{y.place(r.energy_pj / 1e6):.1f}" r="{radius:.1f}"><title>{escape(said)}</title></circle>'
        )


class _Axis:
    """Logarithmic, with a margin of 5 % at both ends."""

    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        margin = max(0.05 * (math.log(high) - math.log(low)), 0.02)
        self.low, self.high = math.log(low) - margin, math.log(high) + margin
        self.begin, self.end = begin, end

    @classmethod
    def of(cls, values: Sequence[float], begin: float, end: float) -> _Axis:
        return cls(max(min(values), 1e-9), max(*values, 1e-9), begin, end)

    def place(self, value: float) -> float:
        part = (math.log(max(value, 1e-9)) - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of each decade where that gives three or more; else both ends."""
        decades = range(math.floor(self.low / math.log(10)), math.ceil(self.high / math.log(10)) + 1)
        found = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        inside = [v for v in found if self.low <= math.log(v) <= self.high]
        return inside if len(inside) > 2 else [math.exp(self.low), math.exp((self.low + self.high) / 2)]
