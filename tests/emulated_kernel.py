"""Runs kernels of aarch64 machines under qemu: a static program that reads operands and writes them back."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from compiler.loops.form import Role
from compiler.numerics.element import Array
from schedules.loops import LoopsPlan
from tests.loop_kernel import Storage, stored

_GUARD = 64


def run_emulated(
    plans: Sequence[LoopsPlan], operands: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
    """Outputs of every plan, all tiles in one call each, from one program."""
    storages = [stored(plan, given) for plan, given in zip(plans, operands, strict=True)]
    places = [_ordered(plan, storage) for plan, storage in zip(plans, storages, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "main.c").write_text(_program(plans, places))
        objects = [root / f"{plan.symbol}.o" for plan in plans]
        for plan, path in zip(plans, objects, strict=True):
            path.write_bytes(plan.build())
        program = str(root / "program")
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-O1"]
        subprocess.run([*command, str(root / "main.c"), *map(str, objects), "-o", program], check=True)
        sent = b"".join(s.flat.tobytes() for place in places for s in place)
        done = subprocess.run(["qemu-aarch64", program], input=sent, capture_output=True, check=True)
    start = 0
    for place in places:
        for storage in place:
            size = storage.flat.nbytes
            storage.flat.view("u1")[:] = memoryview(done.stdout[start : start + size])
            start += size
    return [
        {b.name: storage[b.name].get() for b in plan.form.operands if b.role is Role.OUTPUT}
        for plan, storage in zip(plans, storages, strict=True)
    ]


def _ordered(plan: LoopsPlan, storage: Mapping[str, Storage]) -> list[Storage]:
    return [storage[name] for name in plan.operands if name != "scratch"]


def _program(plans: Sequence[LoopsPlan], places: Sequence[Sequence[Storage]]) -> str:
    lines = ["#include <stdint.h>", "#include <stdio.h>"]
    body: list[str] = []
    written: list[str] = []
    for k, (plan, place) in enumerate(zip(plans, places, strict=True)):
        names = [f"k{k}_{i}" for i in range(len(place))]
        lines.append(
            f"int32_t {plan.symbol}({', '.join(['void *'] * len(plan.operands))}, int32_t, int32_t);"
        )
        lines.append(f"static _Alignas(64) char scratch{k}[{plan.scratch_bytes + _GUARD}];")
        for name, storage in zip(names, place, strict=True):
            size = storage.flat.nbytes
            lines.append(f"static _Alignas(64) char {name}[{size + 2 * _GUARD}];")
            body.append(f"if (fread({name} + {_GUARD}, 1, {size}, stdin) != {size}) return 1;")
            written.append(f"fwrite({name} + {_GUARD}, 1, {size}, stdout);")
        arguments = [f"{name} + {_GUARD}" for name in names]
        if plan.scratch_bytes:
            arguments.append(f"scratch{k}")
        body.append(f"if ({plan.symbol}({', '.join(arguments)}, 0, {plan.tiles})) return 2;")
    return "\n".join([*lines, "int main(void) {", *body, *written, "return 0;", "}", ""])
