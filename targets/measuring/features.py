"""Which optional instructions a board's CPU has: a program asks it there, whatever leads to it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from compiler.ir.diagnostics import BitloomError
from compiler.lowering.machine import CpuMachine
from schedules.arm_machines import ARM32_MACHINES, ARM_MACHINES
from schedules.machines import COMPUTERS
from targets.library.description import CpuFeature
from targets.library.emit import RUNTIME_INCLUDE
from targets.library.toolchain import Toolchain
from targets.measuring.links import Link, LinkLostError, ProgramError, RefusedError
from targets.measuring.program import static_triple

_SILENCE_S = 10.0
_WORD = "features"

_SOURCE = """\
#define _GNU_SOURCE
#include "bitloom_cpu.h"

#include <stdio.h>

int main(void)
{{
    static const struct {{ enum bl_cpu_feature feature; const char *name; }} known[] = {{ {known} }};
    fputs("{word}", stdout);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (bl_cpu_has(known[i].feature))
            printf(" %s", known[i].name);
    return puts("") < 0;
}}
"""


def check_boards(links: Iterable[Link], machine: CpuMachine, target: str, patience_s: float) -> None:
    """Whether boards can run a machine's kernels. patience_s: a board that is lost is tried again so long.

    Errors: BitloomError that names the board, what it lacks and the targets that it can run, or why it was
    not to be asked.
    """
    program = _program(static_triple(machine))
    for name, link in {link.name: link for link in links}.items():
        try:
            has = _features_in_time(link, program, patience_s)
        except RefusedError as error:
            raise BitloomError(
                f'board {name} does not suit the target "{target}": {error}',
                "--target names what the board is: see `bitloom targets`",
            ) from error
        except (LinkLostError, ProgramError) as error:
            raise BitloomError(f"board {name}: {error}") from error
        lacking = [feature for feature in machine.required_features if feature not in has]
        if lacking:
            raise BitloomError(
                f'board {name} does not suit the target "{target}": its CPU lacks {", ".join(lacking)}',
                f"--target may be {', '.join(_suitable(machine, has))}",
            )


def _features_in_time(link: Link, program: bytes, patience_s: float) -> frozenset[str]:
    until = time.monotonic() + patience_s
    while True:
        try:
            return _features(link, program)
        except LinkLostError:
            if time.monotonic() >= until:
                raise
            time.sleep(min(2.0, patience_s / 10))


def _features(link: Link, program: bytes) -> frozenset[str]:
    """As /proc/cpuinfo spells them. Errors: as the link's."""
    for line in link.run(program, _SILENCE_S):
        word, *found = line.split()
        if word == _WORD:
            return frozenset(found)
    raise ProgramError("it does not tell which instructions its CPU has")


def _program(triple: str) -> bytes:
    known = ", ".join(f'{{BL_CPU_{f.name}, "{f.value}"}}' for f in CpuFeature)
    with tempfile.TemporaryDirectory(prefix="bitloom-check-") as name:
        source, program = Path(name) / "features.c", Path(name) / "features"
        source.write_text(_SOURCE.format(known=known, word=_WORD))
        Toolchain(triple).link_program(source, [], program, [RUNTIME_INCLUDE], ["-g0", "-s"])
        return program.read_bytes()


def _suitable(like: CpuMachine, has: frozenset[str]) -> list[str]:
    """Targets of the machine's architecture that a CPU with these instructions can run."""
    arm = {**ARM_MACHINES, **ARM32_MACHINES}
    known = {f"arm/{name}": machine for name, machine in arm.items()}
    known |= {f"cpu/{machine.name}": machine for machine in COMPUTERS if machine.is_x86}
    triple = static_triple(like)
    return [
        name
        for name, machine in known.items()
        if static_triple(machine) == triple and has.issuperset(machine.required_features)
    ]
