"""The table of an exploration."""

from __future__ import annotations

from collections.abc import Sequence

from bitloom.commands.text import number, table
from bitloom.exploration.area import FORMULA
from bitloom.exploration.evaluation import Result

_HEADERS = ("cycles", "ms", "energy", "area", "MAC use", "host", "")


def table_text(results: Sequence[Result], front: Sequence[bool]) -> str:
    """A row for each configuration; `*` marks the front; the reason where there are no figures."""
    names = list(results[0].point)
    rows = [
        [*(point_text(name, r.point[name]) for name in names), *_figures(r, f)]
        for r, f in zip(results, front, strict=True)
    ]
    text = table([*names, *_HEADERS], rows, "r" * (len(names) + len(_HEADERS) - 1) + "l")
    notes = [
        f"* on the Pareto front of cycles, energy and area ({sum(front)} of {len(results)})",
        f"area in 8-bit multiply-adders, a proxy: {FORMULA}",
        "host: layers that the NPU leaves to the host, where they cost nothing here",
    ]
    return "\n".join([text, "", *notes])


def point_text(name: str, value: float | str) -> str:
    """As a user would write it: `24k`, `500M`."""
    if isinstance(value, str):
        return value
    if name == "sram" and value % 1024 == 0:
        return f"{value // 1024:g}k"
    if name == "clock" and value % 10**6 == 0:
        return f"{value // 10**6:g}M"
    return f"{value:g}"


def _figures(r: Result, on_front: bool) -> list[str]:
    if r.reason:
        area = number(round(r.area)) if r.area else "-"
        return ["-", "-", "-", area, "-", "-", r.reason]
    return [
        number(r.cycles),
        f"{r.milliseconds:.3f}",
        f"{r.energy_pj / 1e6:.2f} uJ",
        number(round(r.area)),
        f"{r.mac_utilisation:.1%}",
        str(r.host_layers),
        "*" if on_front else "",
    ]
