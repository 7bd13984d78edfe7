"""Random instructions for tests of the NPU: every field anywhere within its bounds."""

from __future__ import annotations

from enum import IntEnum
from itertools import product
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from sim.fields import Field
from sim.isa import INSTRUCTIONS, Instruction, InstructionError, fields_of


def values(field: Field) -> st.SearchStrategy[Any]:
    if field.kind is bool:
        return st.booleans()
    if issubclass(field.kind, IntEnum):
        return st.sampled_from(list(field.kind))
    if field.log2:
        return st.sampled_from([1 << i for i in range(1 << field.width)])
    low = field.low if field.signed else 1  # an extent of 0 is refused
    return st.one_of(st.just(field.high), st.integers(low, field.high))


@st.composite
def instructions(draw: st.DrawFn, kinds: tuple[type[Instruction], ...] = INSTRUCTIONS) -> Instruction:
    """Any legal instruction."""
    cls = draw(st.sampled_from(kinds))
    tokens = st.lists(st.integers(0, 30), max_size=2, unique=True).map(tuple)
    known = {f.name: f for f in fields_of(cls)}
    fields = {n: draw(values(f)) for n, f in known.items()}
    # Not every engine and memory fits every instruction: the first of a drawn order that does.
    choices = {
        n: draw(st.permutations(list(f.kind))) for n, f in known.items() if issubclass(f.kind, IntEnum)
    }
    for chosen in product(*choices.values()):
        fields |= dict(zip(choices, chosen, strict=True))
        try:
            return cls(waits=draw(tokens), posts=draw(tokens), **fields)
        except InstructionError:
            continue
    reject()
