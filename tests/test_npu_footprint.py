"""What the checker believes an instruction touches is what it touches."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.checker import check
from sim.config import load_config
from sim.footprint import accesses
from sim.functional import memory
from sim.functional.core import Core, External
from sim.functional.execute import step
from sim.isa import Engine, Fill, Instruction, Load, LocalStrides, Memory, Store, Strides
from sim.programs.random import KINDS, random_program
from sim.stream import Program, StreamError
from tests.npu_core import CONFIG

Touched = dict[tuple[Memory, bool], set[int]]


class Watch:
    """Records every place that the functional model reads or writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.touched: Touched = defaultdict(set)
        self.names: dict[int, Memory] = {}
        for name in ("read", "write"):
            self._wrap(monkeypatch, memory.Bytes, name)
            self._wrap(monkeypatch, memory.Words, name)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, cls: type, name: str) -> None:
        plain = getattr(cls, name)

        def watched(of: object, base: int, *rest: object) -> object:
            if isinstance(of, memory.Words):
                count = rest[0] if name == "read" else np.size(rest[0])  # pyright: ignore
                places = np.arange(base, base + int(count))  # pyright: ignore
            else:
                shape, strides = rest if name == "read" else (np.shape(rest[1]), rest[0])  # pyright: ignore
                offsets = [np.arange(n) * s for n, s in zip(shape, strides, strict=True)]  # pyright: ignore
                places = base + sum(np.ix_(*offsets), np.int64(0)).reshape(-1)  # pyright: ignore
            self.touched[self.names[id(of)], name == "write"].update(places.tolist())
            return plain(of, base, *rest)

        monkeypatch.setattr(cls, name, watched)

    def name(self, core: Core, external: External) -> None:
        self.names = {id(m): n for n, m in core.local.items()}
        self.names |= {id(core.accumulators): Memory.ACCUMULATOR}
        self.names |= {id(external.sram): Memory.SRAM, id(external.dram): Memory.DRAM}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("preset", ["npu-128", "npu-512"])
def test_footprints_are_the_hulls_of_what_is_touched(
    kind: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(preset)
    watch = Watch(monkeypatch)
    for seed in range(6):
        case = random_program(kind, seed, config)
        (stream,) = case.program.streams
        found = accesses(stream, config)
        core, external = Core.of(config), case.external(config)
        watch.name(core, external)
        for index, instruction in enumerate(stream.decode()):
            watch.touched.clear()
            step(core, external, instruction)
            mine = np.flatnonzero(found.index == index)
            believed: dict[tuple[Memory, bool], list[tuple[int, int]]] = defaultdict(list)
            for i in mine:
                key = Memory(int(found.memory[i])), bool(found.write[i])
                believed[key].append((int(found.begin[i]), int(found.end[i])))
            assert set(watch.touched) == set(believed), instruction
            for key, places in watch.touched.items():
                assert min(places) == min(a for a, _ in believed[key]), (instruction, key)
                assert max(places) + 1 == max(b for _, b in believed[key]), (instruction, key)
                assert all(any(a <= p < b for a, b in believed[key]) for p in places)


@dataclass(frozen=True, slots=True)
class Block:
    """Of SRAM: planes x rows x size bytes, with strides of rows and planes."""

    base: int
    size: int
    rows: int
    planes: int
    row: int
    plane: int

    def places(self) -> set[int]:
        steps = product(range(self.planes), range(self.rows), range(self.size))
        return {self.base + p * self.plane + r * self.row + i for p, r, i in steps}

    def registers(self, engine: Engine) -> list[Instruction]:
        """Dense inside the core."""
        plane = self.size * self.rows
        return [
            LocalStrides(engine=engine, row=self.size, plane=plane, element=1, element_bytes=1),
            Strides(engine=engine, row=self.row, plane=self.plane),
        ]


blocks = st.builds(
    Block,
    base=st.integers(0, 60),
    size=st.integers(1, 9),
    rows=st.integers(1, 4),
    planes=st.integers(1, 3),
    row=st.integers(0, 24),
    plane=st.integers(0, 48),
)


def _refused(stored: Block, loaded: Block) -> bool:
    """Whether the checker refuses a store and a load that no token orders."""
    size = stored.size * stored.rows * stored.planes
    fill = Fill(
        engine=Engine.LOAD, memory=Memory.ACTIVATION, local=0, row_bytes=size, rows=1, planes=1, pattern=0,
        posts=(0,),
    )  # fmt: skip
    store = Store(
        external=stored.base,
        local=0,
        row_bytes=stored.size,
        rows=stored.rows,
        planes=stored.planes,
        waits=(0,),
    )
    load = Load(
        engine=Engine.FETCH, external=loaded.base, memory=Memory.ACTIVATION, local=1024,
        row_bytes=loaded.size, rows=loaded.rows, planes=loaded.planes,
    )  # fmt: skip
    body = [*stored.registers(Engine.LOAD), fill, *stored.registers(Engine.STORE), store]
    try:
        check(Program.of([*body, *loaded.registers(Engine.FETCH), load]), CONFIG)
    except StreamError as error:
        assert "of SRAM" in str(error)
        return True
    return False


@settings(max_examples=200, deadline=None)
@given(blocks, blocks)
def test_blocks_with_a_common_byte_are_always_found(stored: Block, loaded: Block) -> None:
    assert _refused(stored, loaded) or not stored.places() & loaded.places()


@settings(max_examples=200, deadline=None)
@given(blocks, blocks)
def test_tiles_of_one_image_are_refused_only_where_they_meet(stored: Block, loaded: Block) -> None:
    """Four rows of one pitch each, and begun in the same row: the hulls meet, and columns decide."""
    pitch = 24
    one, other = (
        replace(b, base=b.base % (pitch - b.size + 1), rows=4, planes=1, row=pitch) for b in (stored, loaded)
    )
    assert _refused(one, other) == bool(one.places() & other.places())
