"""What can be known of Arm kernels without a board: instructions of whole models, and cycles of inner loops.

Instructions are counted under qemu's user emulation, ours and onnxruntime's on the same emulated core; the
cycles of inner loops are those of llvm-mca's model of the core. Neither is a time, and neither depends on
this computer's load. From the repository's root, with BITLOOM_ZOO set:

    python -m benchmarks.arm_static squeezenet1_1 kws_dscnn --cores cortex-a76 cortex-a53
    python -m benchmarks.arm_static --loops --cores neoverse-n1 cortex-a55 neoverse-n2 cortex-a53
    python -m benchmarks.arm_static --onnxruntime libonnxruntime.so.1.31.1 --system usr/aarch64-linux-gnu

Needs qemu-user (with plugins) and, for --loops, llvm-19.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.arm_emulation import Emulator, Peer, onnxruntimes, ours, quantized
from benchmarks.arm_loops import CORES, hottest_loop
from benchmarks.cases import CaseError, load_case
from compiler.loops.form import Convolution
from compiler.lowering.program import Program
from schedules.arm_machines import ARM_MACHINES

MODELS = ("squeezenet1_1", "mbv2_100_224_deq", "mbv1_025_224", "ic_resnet8", "kws_dscnn")
_EMULATED = ("cortex-a53", "cortex-a76")


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    for tool in ("qemu-aarch64", *(["llvm-mca-19"] if arguments.loops else [])):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed")
    peer = (
        Peer(arguments.onnxruntime.absolute(), arguments.system.absolute()) if arguments.onnxruntime else None
    )
    with tempfile.TemporaryDirectory(prefix="bitloom-arm-") as name:
        folder = Path(name)
        emulator = Emulator(folder)
        for model in arguments.models:
            try:
                case = load_case(model, folder)
            except CaseError as error:
                parser.error(str(error))
            graph = quantized(case)
            for core in arguments.cores:
                cpu = core if core in _EMULATED else "max"
                counts, program = ours(graph, case, ARM_MACHINES[core], cpu, emulator)
                theirs = onnxruntimes(case, cpu, emulator, peer) if peer and core in _EMULATED else None
                print(_total(model, core, counts, theirs), flush=True)
                for line in _kernels(counts, program, core, arguments.each, arguments.loops):
                    print(line, flush=True)


def _total(model: str, core: str, counts: Counter[str], theirs: tuple[int, int] | None) -> str:
    line = f"{model:<18} {core:<12} {counts.total() / 1e3:10,.0f} thousand instructions"
    if theirs is None:
        return line
    unsigned, signed = theirs
    ratio = counts.total() / min(theirs)
    return f"{line}, onnxruntime u8s8 {unsigned / 1e3:,.0f}, s8s8 {signed / 1e3:,.0f}, ratio {ratio:.3f}"


def _kernels(counts: Counter[str], program: Program, core: str, each: bool, loops: bool) -> list[str]:
    """A line for each kernel, those that execute most first."""
    macs: Counter[str] = Counter()
    for step in program.steps:
        macs[step.plan.symbol] += step.plan.form.macs if isinstance(step.plan.form, Convolution) else 0
    lines: list[str] = []
    for symbol, plan in sorted(program.kernels().items(), key=lambda kernel: -counts[kernel[0]]):
        line = (
            f"  {counts[symbol] / 1e3:9,.0f}  {macs[symbol] / max(counts[symbol], 1):5.1f} MAC each  {symbol}"
        )
        loop = hottest_loop(plan, CORES[core]) if loops and core in CORES else None
        if loop:
            share = loop.macs_per_cycle / CORES[core].peak
            line += f"  loop: {loop.macs_per_cycle:.1f} MAC/cycle, {share:.0%} of peak, {loop.spills} spills"
        if each or loop:
            lines.append(line)
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--cores", nargs="+", default=_EMULATED, choices=list(ARM_MACHINES))
    parser.add_argument("--each", action="store_true", help="a line for each kernel")
    parser.add_argument("--loops", action="store_true", help="cycles of inner loops by llvm-mca")
    parser.add_argument("--onnxruntime", type=Path, help="libonnxruntime.so for aarch64")
    parser.add_argument("--system", type=Path, help="folder with lib/ of an aarch64 system")
    return parser


if __name__ == "__main__":
    main()
