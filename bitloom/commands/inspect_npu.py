"""What `bitloom inspect` prints of a network for the NPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitloom.npu_account import NpuAccount

_SHOWN_TENSORS = 12
_NAME = 40


def print_account(account: NpuAccount) -> None:
    """Provenance, ports, layers, streams, weights, memories."""
    from bitloom.commands.text import number, size, table

    of = account.provenance
    versions = ", ".join(f"{name} {version}" for name, version in (of["versions"] or {}).items())
    print(f"{of['name']} for {of['target']}, digest {str(of['digest'])[:16]}")
    print(f"made from {of['calibration_samples']} calibration samples by {versions}")
    for port in account.ports:
        print(f"{port.kind} {port.name}: {port.type}, {port.memory} byte {number(port.byte)}")
    print(f"\n{_layers(account)}\n")
    for layer in account.layers:
        if layer.reason is not None:
            print(f"host: {_short(layer.layer)}: {layer.operator}: {layer.reason}")
    rows = [[f"{s.program}", f"{s.core}", number(s.instructions), number(s.bytes)] for s in account.streams]
    print(f"\n{table(['program', 'core', 'instructions', 'bytes'], rows, 'rrrr')}\n")
    print(f"{_memories(account)}\n")
    print(f"{_tensors(account)}\n")
    raw = sum(x.weights_raw for x in account.layers)
    fetched = sum(x.weights_fetched for x in account.layers)
    print(f"SRAM plan {number(account.sram_plan)} bytes, lower bound {number(account.sram_bound)}")
    moved = f"fetched {size(raw)} as {size(fetched)}{_rate(raw, fetched)}"
    print(f"weights {size(account.weight_bytes)} in the graph; {moved}")
    print(", ".join(f"{name} {size(count)}" for name, count in account.files.items()))


def _layers(account: NpuAccount) -> str:
    from bitloom.commands.text import number, table

    rows = [
        [
            _short(x.layer),
            x.operator,
            "host" if x.program is None else f"NPU {x.program}",
            number(x.instructions) if x.instructions else "",
            number(x.weights_raw) if x.weights_raw else "",
            number(x.weights_fetched) if x.weights_raw else "",
            f"{x.weights_fetched / x.weights_raw:.1%}" if x.weights_raw else "",
        ]
        for x in account.layers
    ]
    headers = ["layer", "operator", "by", "instructions", "weights", "fetched", "rate"]
    return table(headers, rows, "lllrrrr")


def _memories(account: NpuAccount) -> str:
    from bitloom.commands.text import number, table

    rows = [
        [
            m.memory,
            number(m.values),
            number(m.tensors),
            number(m.constants),
            "" if m.size is None else number(m.size),
            "" if m.size is None else f"{(m.tensors + m.constants) / m.size:.1%}",
        ]
        for m in account.memories
    ]
    return table(["memory", "values", "tensors", "constants", "size", "used"], rows, "lrrrrr")


def _tensors(account: NpuAccount) -> str:
    """The largest, in order of their places."""
    from bitloom.commands.text import number, table

    largest = sorted(account.placed, key=lambda p: p.begin - p.end)[:_SHOWN_TENSORS]
    rows = [[p.value, p.memory, number(p.begin), number(p.end)] for p in account.placed if p in largest]
    text = table(["tensor", "memory", "begin", "end"], rows, "llrr")
    left = len(account.placed) - len(rows)
    return f"{text}\n{left} smaller ones: see --json" if left > 0 else text


def _rate(raw: int, fetched: int) -> str:
    return f", {fetched / raw:.1%} of it" if raw else ""


def _short(name: str) -> str:
    """Of fused layers, the beginning; the JSON has it all."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
