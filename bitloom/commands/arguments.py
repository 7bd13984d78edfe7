"""Options of the form NAME=VALUE."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.ir.diagnostics import BitloomError


def pairs(option: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """`["a=1", "b=2"]` as a dictionary. A name may hold `=`: the last one separates.

    Errors: BitloomError for a text without `=`, and for a name given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.rpartition("=")
        if not separator or not name or not value:
            raise BitloomError(f'{option} wants NAME=VALUE, not "{text}"', f"for example {option} {example}")
        if name in found:
            raise BitloomError(f'{option} gives "{name}" twice: {found[name]} and {value}')
        found[name] = value
    return found


def shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`--shape input=1,3,224,224` options. Errors: BitloomError."""
    return {name: _shape(name, text) for name, text in pairs("--shape", texts, "input=1,3,224,224").items()}


def _shape(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BitloomError(
            f'--shape {name}: "{text}" is not a list of integers', f"for example --shape {name}=1,3,224,224"
        ) from None


def numbers(option: str, texts: Sequence[str], example: str) -> dict[str, float]:
    """NAME=NUMBER options. Errors: BitloomError."""
    found: dict[str, float] = {}
    for name, text in pairs(option, texts, example).items():
        try:
            found[name] = float(text)
        except ValueError:
            raise BitloomError(
                f'{option} {name}: "{text}" is not a number', f"for example {option} {example}"
            ) from None
    return found
