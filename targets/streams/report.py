"""What the manifest says of a program for the NPU: summary, layers, and what is left to the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compiler.report import graph_rows
from targets.streams.lowering import HostStep, NpuProgram
from targets.streams.writing import StreamStep


def facts(program: NpuProgram, devices: Sequence[str] = ()) -> dict[str, Any]:
    """devices: whose records were looked at."""
    rows = graph_rows(program.graph)
    streams = [s.program for s in program.steps if isinstance(s, StreamStep)]
    return {
        "summary": {
            "layers": len(rows),
            "host_layers": len(program.refusals),
            "programs": len(streams),
            "instructions": sum(len(p) for p in streams),
            "macs": sum(r.macs for r in rows),
            "weight_bytes": sum(r.weight_bytes for r in rows),
            "dram_bytes": int(program.dram.size),
            "arena_bytes": program.sram_plan.arena_bytes,
            "arena_lower_bound": program.sram_plan.lower_bound,
        },
        "layers": [row.as_dict() for row in rows],
        "tuning": _tuning(program, devices),
        "host": [
            {
                "layer": " + ".join(p.call.node.location.names) or p.call.node.op.mnemonic,
                "operator": p.call.node.op.mnemonic,
                "reason": p.refusal,
            }
            for p in (s.planned for s in program.steps if isinstance(s, HostStep))
        ],
    }


def _tuning(program: NpuProgram, devices: Sequence[str]) -> dict[str, Any]:
    """How many layers there are that can be cut in several ways, and how many are by records."""
    streams = [s for s in program.steps if isinstance(s, StreamStep)]
    tuned = sum(len(s.changed) for s in streams)
    return {
        "layers": sum(len(s.products) + len(s.manners) for s in streams),
        "tuned": tuned,
        "devices": list(devices) if tuned else [],
    }
