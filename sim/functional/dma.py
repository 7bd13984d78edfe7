"""What LOAD, FETCH and STORE do to memories."""

from __future__ import annotations

import numpy as np

from sim.compression import inflate
from sim.functional.core import Core, External
from sim.functional.memory import CoreError
from sim.isa import Engine, Fill, Inflate, Load, LocalStrides, Memory, Store, Strides

Shape = tuple[int, ...]


def load(core: Core, external: External, i: Load) -> None:
    outside, (shape, strides) = core.get(Strides, i.engine), _local(core, i.engine, i)
    rows = external.port(i.dram).read(
        i.external, (i.planes, i.rows, i.row_bytes), (outside.plane, outside.row, 1)
    )
    core.local[i.memory].write(i.local, strides, rows.reshape(shape))


def store(core: Core, external: External, i: Store) -> None:
    outside, (shape, strides) = core.get(Strides, Engine.STORE), _local(core, Engine.STORE, i)
    taken = core.activation.read(i.local, shape, strides).reshape(i.planes, i.rows, i.row_bytes)
    external.port(i.dram).write(i.external, (outside.plane, outside.row, 1), taken)


def fill(core: Core, i: Fill) -> None:
    shape, strides = _local(core, i.engine, i)
    pattern = np.array([i.pattern & 255, i.pattern >> 8], np.uint8)
    row = np.resize(pattern, i.row_bytes)
    rows = np.broadcast_to(row, (i.planes, i.rows, i.row_bytes))
    core.local[i.memory].write(i.local, strides, rows.reshape(shape))


def inflate_weights(core: Core, external: External, i: Inflate) -> None:
    packed = external.port(i.dram).read(i.external, (i.packed_bytes,), (1,))
    try:
        raw = inflate(packed, i.raw_bytes)
    except ValueError as error:
        raise CoreError(str(error)) from None
    core.local[Memory(i.memory)].write(i.local, (1,), raw)


def _local(core: Core, engine: Engine, i: Load | Store | Fill) -> tuple[Shape, Shape]:
    """Shape and byte strides inside the core: planes, rows, elements, bytes of an element; or planes, rows,
    bytes where elements lie one behind the other."""
    inside = core.get(LocalStrides, engine)
    if i.row_bytes % inside.element_bytes:
        raise CoreError(f"row_bytes = {i.row_bytes} is no multiple of element_bytes = {inside.element_bytes}")
    if inside.element == inside.element_bytes:
        return (i.planes, i.rows, i.row_bytes), (inside.plane, inside.row, 1)
    shape = (i.planes, i.rows, i.row_bytes // inside.element_bytes, inside.element_bytes)
    return shape, (inside.plane, inside.row, inside.element, 1)
