"""Inner loops of Arm kernels by llvm-mca's static model of the core: cycles, and share of the core's peak."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compiler.lowering.build import build_module
from compiler.lowering.kernel import KernelPlan
from schedules.convolution import ConvolutionPlan
from schedules.convolution_tir import convolution_function

_ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class Core:
    """model: llvm-mca's name of the core. peak: 8-bit multiply-accumulates per cycle."""

    model: str
    peak: float


# A53: SMULL, SMLAL2 and SADALP, one per cycle, for 16 products. A72: its multiplies go to one pipe.
CORES = {
    "cortex-a53": Core("cortex-a53", 16 / 3),
    "cortex-a55": Core("cortex-a55", 16),
    "cortex-a72": Core("cortex-a72", 8),
    "cortex-a76": Core("cortex-a76", 32),
    "neoverse-n1": Core("neoverse-n1", 32),
    "neoverse-n2": Core("neoverse-n2", 64),
    "cortex-x2": Core("cortex-x2", 128),
}
_PRODUCTS = {"sdot": 16, "smmla": 32, "smull": 8, "smlal2": 8}


@dataclass(frozen=True, slots=True)
class InnerLoop:
    """instructions, macs, cycles: of one iteration. spills: accesses to the stack."""

    instructions: int
    macs: int
    cycles: float
    spills: int

    @property
    def macs_per_cycle(self) -> float:
        return self.macs / self.cycles


def hottest_loop(plan: KernelPlan, core: Core) -> InnerLoop | None:
    """The loop of a kernel of 8-bit dot products with most of them; None where it has none."""
    if not isinstance(plan, ConvolutionPlan):
        return None
    module = build_module({plan.symbol: convolution_function(plan)}, dict(plan.machine.target))
    loops = list(_loops(module.inspect_source("asm")))
    best = max(loops, key=_macs, default=[])
    if not _macs(best):
        return None
    return InnerLoop(len(best), _macs(best), _cycles(best, core), sum("[sp" in line for line in best))


def _loops(assembly: str) -> Iterator[list[str]]:
    """Basic blocks that branch back to their own beginning."""
    label, block = "", list[str]()
    for line in assembly.splitlines():
        found = re.match(r"(\.LBB\w+):", line)
        if found:
            label, block = found[1], []
        elif re.match(r"\t[a-z]", line):
            block.append(line.split("//")[0].rstrip())
            target = re.search(r"\b(?:b\.|cbn?z|tbn?z).*?(\.LBB\w+)$", block[-1])
            if target and target[1] == label:
                yield block
                label, block = "", []


def _macs(block: Sequence[str]) -> int:
    return sum(_PRODUCTS.get(line.split()[0], 0) for line in block)


def _cycles(block: Sequence[str], core: Core) -> float:
    command = ["llvm-mca-19", "-mtriple=aarch64", f"-mcpu={core.model}", f"-iterations={_ITERATIONS}"]
    done = subprocess.run(command, input="\n".join(block), capture_output=True, text=True, check=True)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert total is not None
    return int(total[1]) / _ITERATIONS
