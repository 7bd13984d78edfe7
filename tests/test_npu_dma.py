"""LOAD and STORE: blocks, transposes, fills, compressed weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.compression import deflate, inflate
from sim.functional.memory import CoreError
from sim.isa import Engine, Fill, Inflate, Load, LocalStrides, Memory, Store, Strides
from tests.npu_core import Bench

few = st.integers(1, 5)


def local(engine: Engine, row: int, plane: int, element: int = 1, size: int = 1) -> LocalStrides:
    return LocalStrides(engine=engine, row=row, plane=plane, element=element, element_bytes=size)


@settings(deadline=None)
@given(few, few, few, st.sampled_from([1, 2, 4]), st.booleans(), st.booleans())
def test_blocks_move_and_turn(
    planes: int, rows: int, count: int, size: int, turned: bool, dram: bool
) -> None:
    """[planes, rows, count] elements, rows and columns exchanged inside the core or not, and back."""
    memory = np.random.default_rng(0).integers(0, 256, 4096, np.uint8)
    bench = Bench.of(memory, memory)
    row = count * size
    outside = Strides(engine=Engine.LOAD, row=row + 3, plane=(row + 3) * rows + 7)
    strides = (size, size * rows) if turned else (row, size)
    bench.run(
        outside,
        local(Engine.LOAD, strides[0], rows * row, strides[1], size),
        Load(
            engine=Engine.LOAD,
            dram=dram,
            external=11,
            memory=Memory.ACTIVATION,
            local=5,
            row_bytes=row,
            rows=rows,
            planes=planes,
        ),
    )
    block = np.stack(
        [
            np.stack([memory[11 + p * outside.plane + r * outside.row :][:row] for r in range(rows)])
            for p in range(planes)
        ]
    ).reshape(planes, rows, count, size)
    inside = block.transpose(0, 2, 1, 3) if turned else block
    assert np.array_equal(bench.core.activation.data[5 : 5 + inside.size], inside.reshape(-1))
    bench.run(
        Strides(engine=Engine.STORE, row=row, plane=rows * row),
        local(Engine.STORE, strides[0], rows * row, strides[1], size),
        Store(dram=dram, external=8192, local=5, row_bytes=row, rows=rows, planes=planes),
    )
    stored = bench.external.port(dram).data[8192 : 8192 + block.size]
    assert np.array_equal(stored, block.reshape(-1))


def test_fill_repeats_a_pattern_in_each_row() -> None:
    bench = Bench.of()
    bench.run(
        local(Engine.LOAD, 8, 0),
        Fill(
            engine=Engine.LOAD,
            memory=Memory.ACTIVATION,
            local=1,
            row_bytes=5,
            rows=2,
            planes=1,
            pattern=0x0201,
        ),
    )
    assert bench.core.activation.data[:16].tolist() == [0, 1, 2, 1, 2, 1, 0, 0, 0, 1, 2, 1, 2, 1, 0, 0]


@given(st.binary(max_size=1100), st.integers(0, 8))
def test_compression_loses_nothing(data: bytes, width: int) -> None:
    raw = np.frombuffer(data, np.uint8)
    narrow = (raw.astype(np.int8) >> (8 - width) if width else raw * 0).astype(np.int8).view(np.uint8)
    for codes in (raw, narrow):
        packed = deflate(codes)
        assert np.array_equal(inflate(packed, codes.size), codes)
        blocks = -(-codes.size // 512)
        assert packed.size <= codes.size + blocks


def test_compression_of_weights_saves_bytes() -> None:
    """Gaussian 8-bit weights whose largest is about 127; nothing but zeros."""
    rng = np.random.default_rng(0)
    weights = np.clip(np.round(rng.normal(0, 30, 1 << 14)), -127, 127).astype(np.int8)
    assert deflate(weights.view(np.uint8)).size < 0.9 * weights.size
    assert deflate(np.zeros(4096, np.uint8)).size == 8 * (1 + 64)


def test_weights_are_inflated_on_the_way_in() -> None:
    raw = np.random.default_rng(1).integers(-8, 8, 700).astype(np.int8).view(np.uint8)
    packed = deflate(raw)
    bench = Bench.of(dram=packed)
    bench.run(
        Inflate(
            engine=Engine.FETCH,
            dram=True,
            external=0,
            memory=Memory.WEIGHT,
            local=9,
            raw_bytes=700,
            packed_bytes=packed.size,
        )
    )
    assert np.array_equal(bench.core.local[Memory.WEIGHT].data[9:709], raw)
    with pytest.raises(CoreError, match="compressed bytes end inside of a block"):
        bench.run(
            Inflate(
                engine=Engine.FETCH,
                dram=True,
                external=0,
                memory=Memory.WEIGHT,
                local=9,
                raw_bytes=700,
                packed_bytes=90,
            )
        )
    with pytest.raises(CoreError, match=r"bytes, \d+ are used"):
        bench.run(
            Inflate(
                engine=Engine.FETCH, dram=True, external=0, memory=Memory.WEIGHT, local=9, raw_bytes=700,
                packed_bytes=packed.size + 1,
            )
        )  # fmt: skip


def test_elements_are_whole() -> None:
    with pytest.raises(CoreError, match="row_bytes = 3 is no multiple of element_bytes = 2"):
        Bench.of().run(
            Strides(engine=Engine.LOAD, row=0, plane=0),
            local(Engine.LOAD, 0, 0, 2, 2),
            Load(
                engine=Engine.LOAD,
                external=0,
                memory=Memory.ACTIVATION,
                local=0,
                row_bytes=3,
                rows=1,
                planes=1,
            ),
        )
