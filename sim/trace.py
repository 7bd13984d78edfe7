"""A run as a trace for Perfetto (https://ui.perfetto.dev): one cycle is shown as one microsecond."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.config import NpuConfig
from sim.isa import INSTRUCTIONS, Engine
from sim.stream import DISPATCHER, Program
from sim.timing import Timing

_PORTS = ("SRAM", "DRAM")
_CAUSES = ("queue", "token", "bank", "bus")


def trace(
    program: Program, timing: Timing, config: NpuConfig, names: Sequence[Sequence[str]] | None = None
) -> str:
    """JSON: a process for each core, a thread for each engine, a span for each instruction, and counters of
    the bytes that each port has moved.

    names: what each core's instructions belong to (a layer); spans bear it, or their mnemonic.
    """
    events: list[dict[str, Any]] = []
    for core, (stream, spans) in enumerate(zip(program.streams, timing.spans, strict=True)):
        events.append(_named("process_name", core, 0, f"{config.name} core {core}"))
        events += [_named("thread_name", core, int(e), e.name) for e in Engine]
        for index in np.flatnonzero(spans.engine != DISPATCHER).tolist():
            mnemonic = INSTRUCTIONS[int(stream.opcodes[index])].mnemonic
            waits = {c: int(getattr(spans, c)[index]) for c in _CAUSES if getattr(spans, c)[index]}
            events.append(
                {
                    "ph": "X",
                    "pid": core,
                    "tid": int(spans.engine[index]),
                    "name": names[core][index] if names is not None else mnemonic,
                    "cat": mnemonic,
                    "ts": int(spans.turn[index]),
                    "dur": int(spans.end[index] - spans.turn[index]),
                    "args": {"instruction": index, **waits},
                }
            )
    events += _moved(timing)
    return json.dumps({"traceEvents": events, "otherData": {"npu": config.name, "cycles": timing.cycles}})


def _named(kind: str, core: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": core, "tid": thread, "name": kind, "args": {"name": name}}


def _moved(timing: Timing) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for port, name in enumerate(_PORTS):
        mine = [w.port == port for w in timing.work]
        ends = np.concatenate([s.end[m] for s, m in zip(timing.spans, mine, strict=True)])
        moved = np.concatenate([w.moved[m] for w, m in zip(timing.work, mine, strict=True)])
        order = np.argsort(ends, kind="stable")
        for at, total in zip(ends[order].tolist(), np.cumsum(moved[order]).tolist(), strict=True):
            events.append({"ph": "C", "pid": 0, "name": name, "ts": int(at), "args": {"bytes": total}})
    return events
