"""What commands print: tables, sizes, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> str:
    """Columns of equal width, two spaces between. right: one letter a column, `r` aligns to the right."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    aligned = right.ljust(len(headers))

    def cell(text: str, index: int) -> str:
        return text.rjust(widths[index]) if aligned[index] == "r" else text.ljust(widths[index])

    return "\n".join("  ".join(cell(t, i) for i, t in enumerate(line)).rstrip() for line in lines)


def size(count: int) -> str:
    """Bytes for people: `912 B`, `70.6 kB`, `1.2 MB` (powers of ten)."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 999_950 else f"{count / 1e6:.1f} MB"


def number(count: int) -> str:
    """With thousands separated: `3,031,040`."""
    return f"{count:,}"


def print_json(record: object) -> None:
    """One indented JSON document on standard output."""
    print(json.dumps(record, indent=2, default=str))
