"""Consecutive calls of the NPU -> one program, with the choices that make it fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.loops.form import Convolution
from schedules.npu_choices import Choices, Manner
from schedules.npu_demands import Written
from schedules.npu_dispatch import as_written, in_order_of_start
from schedules.npu_emit import Emitter
from schedules.npu_mechanisms import Mechanism, Mechanisms
from schedules.npu_room import PLAIN, Room, Staging, expected, reserved
from schedules.npu_staging import stage
from schedules.npu_tiling import Shape, Tiling
from sim.checker import check
from sim.config import NpuConfig
from sim.fields import Column
from sim.stream import Program
from sim.timing import time_program
from sim.tokens import insert_tokens
from targets.streams.constants import Constants
from targets.streams.placing import Memories, Planned
from targets.streams.rules import reason

_LONG, _NEAR = 20000, 1.1  # instructions; cycles, by those if all constants were in SRAM from the start
Products = Mapping[int, tuple[Shape, Tiling]]


@dataclass(frozen=True, slots=True)
class Plan:
    """fits: what tilings may use of a core; expects: how they expect constants to come; staging: how copies
    of constants are planned, if there are to be any."""

    fits: NpuConfig
    expects: NpuConfig
    staging: Staging | None


@dataclass(frozen=True, slots=True)
class StreamStep:
    """Consecutive calls as one program. numbers: for each core and instruction, the number of its call; of
    `Halt`, how many there are. first: which of all calls the first one is; products: of those layers, by
    number, what they are and their tilings; manners: of other layers; plan: what they were written by;
    changed: numbers of those that were cut in another way in the first attempt."""

    planned: tuple[Planned, ...]
    program: Program
    numbers: tuple[Column, ...]
    first: int
    products: Products
    manners: Mapping[int, Manner]
    plan: Plan
    changed: frozenset[int]


@dataclass(frozen=True, slots=True)
class Writing:
    """Consecutive calls of the NPU, of which the first is number `first` of all."""

    group: list[Planned]
    first: int
    config: NpuConfig
    memory: Memories
    progress: Callable[[int, int], None]
    mechanisms: Mechanisms

    def best(self, attempts: Sequence[Choices | None]) -> StreamStep:
        """See `targets.streams.lowering.Lowering.lower`."""
        before = self.memory.constants
        found = [self._own(before) if c is None else self._given(c, before) for c in attempts]
        cycles = [time_program(s.program, self.config).cycles for s in found] if len(found) > 1 else [0]
        best = found[cycles.index(min(cycles))]
        self.memory.constants = best.constants
        check(best.program, self.config)
        numbers = tuple(np.where(n < 0, len(self.group), n) for n in best.numbers)
        own = found[0].cuts
        changed = frozenset(n for n, cut in best.cuts.items() if cut != own[n])
        return StreamStep(
            planned=tuple(self.group),
            program=best.program,
            numbers=numbers,
            first=self.first,
            products=best.products,
            manners=best.manners,
            plan=best.plan,
            changed=changed,
        )

    def _own(self, constants: Constants) -> _Scheduled:
        """The best of the plans; a program that is too long to be written several times, or that nothing may
        be tried for, by the first of them."""
        best: _Scheduled | None = None
        tries = Mechanism.TRIALS in self.mechanisms
        for plan in self._plans():
            found = self._written(plan, Choices(), constants)
            best = found if best is None or found.cycles < best.cycles else best
            if not tries or found.written > _LONG or found.cycles < _NEAR * found.ideal:
                break
        assert best is not None
        return best

    def _given(self, choices: Choices, constants: Constants) -> _Scheduled:
        """Tilings that are not given are the compiler's own."""
        staging = choices.stagings.get(self.first)
        fits = self.config if staging is None else reserved(self.config)
        expects = self.config if staging is None else expected(fits)
        return self._written(Plan(fits, expects, staging), choices.within(self.first), constants)

    def _plans(self) -> list[Plan]:
        """The most promising first: with copies of constants, which tilings expect at the pace of SRAM or at
        that of DRAM, and without copies. These promise little where arrays take longer than DRAM in any
        case."""
        config, own = self.config, reserved(self.config)
        whole = Plan(config, config, None)
        if not {Mechanism.ORDER, Mechanism.STAGING} <= self.mechanisms or own == config:
            return [whole]
        layers = ((p.layer, p.call) for p in self.group)
        if any(layer is None or reason(layer.rules, call, own) is not None for layer, call in layers):
            return [whole]
        staged = [Plan(own, expected(own), PLAIN), Plan(own, own, PLAIN)]
        return [*staged, whole] if self._dram_limits() else [whole, *staged]

    def _dram_limits(self) -> bool:
        """Whether weights take longer on their way from DRAM than all products would at the arrays' rate."""
        moving = computing = 0.0
        for p in self.group:
            form = p.call.lowered.form
            if isinstance(form, Convolution):
                weights = p.call.lowered.constants["weight"].size * form.weight.bits / 8
                moving += weights / self.config.dram.bytes_per_cycle
                computing += form.macs / self.config.macs_per_cycle
        return moving > computing

    def _written(self, plan: Plan, chosen: Choices, constants: Constants) -> _Scheduled:
        """chosen: by number in the group."""
        e = Emitter(plan.fits, plan.expects, self.mechanisms, chosen)
        self.memory.constants = constants.copy()
        for number, p in enumerate(self.group):
            self.progress(number, len(self.group))
            assert p.layer is not None
            e.layer = number
            p.layer.emit(e, p.call, self.memory)
        room = None if plan.staging is None else self.memory.room(self.first)
        return _scheduled(e, self.config, plan, room, self.memory.constants)


@dataclass(frozen=True, slots=True)
class _Scheduled:
    """A program with the number of each instruction's call (-1: of none), its cycles, those if all constants
    had been in SRAM (0: nobody knows), how many instructions were written without copies and tokens, the
    constants, and as of `StreamStep` the others."""

    program: Program
    numbers: tuple[Column, ...]
    cycles: int
    ideal: int
    written: int
    constants: Constants
    products: Products
    manners: Mapping[int, Manner]
    plan: Plan

    @property
    def cuts(self) -> Mapping[int, Tiling | Manner]:
        return {**{n: tiling for n, (_, tiling) in self.products.items()}, **self.manners}


def _scheduled(
    e: Emitter, config: NpuConfig, plan: Plan, room: Room | None, constants: Constants
) -> _Scheduled:
    """room: of SRAM for copies of constants, if there are to be any."""
    written = Written(e.instructions, e.layers)
    tokens = insert_tokens(written.instructions, config)
    if Mechanism.ORDER in e.mechanisms:
        found = in_order_of_start(tokens, config)
    else:
        found = as_written(tokens, config)
    staged = None
    if room is not None and plan.staging is not None:
        staged = stage(written, tokens, config, room, constants.begin, plan.staging)
    if staged is not None:
        other = in_order_of_start(insert_tokens(staged.written.instructions, config), config)
        if other.cycles < found.cycles:
            found, written = other, staged.written
    layers = tuple(np.array([*written.layers, -1])[list(o)] for o in found.origin)
    return _Scheduled(
        program=found.program,
        numbers=layers,
        cycles=found.cycles,
        ideal=0 if staged is None else staged.ideal,
        written=len(e.instructions),
        constants=constants,
        products=e.products,
        manners=e.manners,
        plan=plan,
    )
