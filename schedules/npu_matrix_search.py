"""The tiling of a product of matrices, and which operand plays which part: the best few by the analytic
model, tried on the simulator without data, by their first tiles."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from schedules.npu_emit import Address, Emitter
from schedules.npu_matrix import Matrix, MatrixProduct
from schedules.npu_matrix_emit import count_tiles, emit_matrices
from schedules.npu_matrix_tiling import MatrixTiling, matrix_tilings
from schedules.npu_mechanisms import ALL, Mechanism, Mechanisms
from sim.config import NpuConfig
from sim.timing import time_program
from sim.tokens import insert_tokens

_TRIALS = 8
_INSTRUCTIONS = 300  # of a trial, about
_WORTH = 1.3  # what costs more than the cheapest by this factor is not tried


def choose_matrix_tiling(
    p: MatrixProduct, config: NpuConfig, mechanisms: Mechanisms = ALL
) -> tuple[MatrixProduct, MatrixTiling]:
    """The product with its operands in their parts, and its tiling; the same in every run. One operand must
    have 8 bits."""
    exchanged, tiling = _choose(_somewhere(p), config, mechanisms)
    return _turned(p, exchanged), tiling


def _turned(p: MatrixProduct, exchanged: bool) -> MatrixProduct:
    return (p.exchanged if exchanged else p).merged


def _somewhere(p: MatrixProduct) -> MatrixProduct:
    """Without what no tiling depends on, so that layers of one shape share one. Operands and result lie one
    behind the other."""
    sides = {"left": (p.m, p.k), "right": (p.k, p.n), "result": (p.m, p.n)}
    at, placed = 0, dict[str, Matrix]()
    for name, shape in sides.items():
        x: Matrix = getattr(p, name)
        placed[name] = replace(x, address=Address(x.address.dram, at), zero=0)
        at += _extent(x, p.batch, shape)
    return replace(p, **placed, parameters=Address(True, at), low=0, high=0)


def _extent(x: Matrix, batch: tuple[int, ...], shape: tuple[int, int]) -> int:
    """Bytes up to the last element."""
    steps = zip((*batch, *shape), (*x.batch, x.row, x.column), strict=True)
    return sum((n - 1) * s for n, s in steps) + x.size


@lru_cache(maxsize=1024)
def _choose(p: MatrixProduct, config: NpuConfig, mechanisms: Mechanisms) -> tuple[bool, MatrixTiling]:
    found = [
        (exchanged, tiling)
        for exchanged in (False, True)
        if (p.left if exchanged else p.right).element.bits == 8
        for tiling in matrix_tilings(_turned(p, exchanged), config)
    ]
    found = sorted(found, key=lambda f: f[1].cycles)
    tried = [f for f in found[:_TRIALS] if f[1].cycles <= _WORTH * found[0][1].cycles]
    if len(tried) == 1 or Mechanism.TRIALS not in mechanisms:
        return found[0]
    return min(tried, key=lambda f: _trial(_turned(p, f[0]), f[1], config))


def _trial(p: MatrixProduct, t: MatrixTiling, config: NpuConfig) -> float:
    """Cycles of the layer alone, of a long one by the pace of its first tiles."""
    every = count_tiles(p, t, config.cores)
    few = min(every, 4)
    e, cycles = _timed(p, t, few, config)
    tried = min(every, max(few, _INSTRUCTIONS * few // len(e.instructions)))
    if tried == few:
        return cycles * every / few
    _, more = _timed(p, t, tried, config)
    return more + (more - cycles) / (tried - few) * (every - tried)


def _timed(p: MatrixProduct, t: MatrixTiling, tiles: int, config: NpuConfig) -> tuple[Emitter, int]:
    """The first tiles of each core. Instructions will be handed out in the order of their starts: queues that
    hold all of them show it."""
    e = Emitter(config, config)
    emit_matrices(e, p, t, tiles)
    program = insert_tokens(e.instructions, config).program
    return e, time_program(program, replace(config, queue_depth=2 * len(e.instructions))).cycles
