"""Errors that a user can act on: what was wrong, where in the model, and a way out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """Names of all nodes of the original model that a node stands for, through every fusion."""

    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " + ".join(f'"{n}"' for n in self.names) if self.names else "(added by the compiler)"

    def fuse(self, *others: Location) -> Location:
        """The union, in order of appearance."""
        return Location(tuple(dict.fromkeys(n for place in (self, *others) for n in place.names)))


class BitloomError(Exception):
    """A mistake in the input, or a limit of this computer, that its owner can mend.

    The command line prints `error: message`, then `hint: hint`, without a traceback, and exits with 2.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class NodeError(BitloomError):
    """An error at one node of the model."""

    def __init__(self, location: Location, mnemonic: str, message: str, hint: str | None = None) -> None:
        super().__init__(f"node {location} ({mnemonic}): {message}", hint)
        self.location = location


class TypeMismatchError(Exception):
    """Raised by `Op.infer`; whoever knows the node turns it into a NodeError."""
