"""How many registers hold values at once, statement by statement."""

from __future__ import annotations

from dataclasses import dataclass

from schedules.mali_typed import Typed


@dataclass(slots=True)
class Variable:
    """depth: of the loop that it is declared in. first, last: statements that use it."""

    type: Typed
    depth: int
    first: int = -1
    last: int = -1


class Lifetimes:
    """Of the variables of a function, whose statements are told one after the other.

    Values are taken to be computed where they are first needed, and dropped where they are needed last; those
    from outside of a loop stay while it runs.
    """

    def __init__(self) -> None:
        self._statement = 0
        self._widest = [0]  # value within each statement
        self._variables: list[Variable] = []
        self._begins: list[int] = []  # first statements of the loops around
        self._late: list[list[Variable]] = []  # what they use from outside

    def next_statement(self) -> None:
        self._statement += 1
        self._widest.append(0)

    def declared(self, of: Typed) -> Variable:
        self._variables.append(Variable(of, len(self._begins)))
        return self._variables[-1]

    def use(self, variable: Variable) -> None:
        first = self._statement
        if len(self._begins) > variable.depth:
            self._late[variable.depth].append(variable)
            first = self._begins[variable.depth]
        if variable.first < 0:
            variable.first = first
        variable.last = self._statement

    def hold(self, registers: int) -> None:
        """So many, within the statement alone."""
        self._widest[-1] = max(self._widest[-1], registers)

    def begin_loop(self) -> None:
        self._begins.append(self._statement)
        self._late.append([])

    def end_loop(self) -> None:
        self._begins.pop()
        for variable in self._late.pop():
            variable.last = self._statement + 1

    @property
    def registers(self) -> int:
        """The most that are live at once."""
        live = [*self._widest, 0]
        for v in self._variables:
            for statement in range(v.first, v.last) if v.first >= 0 else ():
                live[statement] += v.type.words
        return max(live)
