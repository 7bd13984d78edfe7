"""Instructions that whole models execute on emulated Arm cores: bitloom's libraries and onnxruntime's."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.case import Case
from benchmarks.engines.onnxruntime import Calibration
from compiler.driver import QuantizeOptions, import_float, quantize_imported
from compiler.ir.graph import Graph
from compiler.lowering.cache import Cache, default_folder
from compiler.lowering.machine import CpuMachine
from compiler.lowering.program import Program, lower_variants
from compiler.quantize.calibration_run import read_calibration
from targets.cpu import CpuTarget
from targets.measuring.emulated import build_plugin

_SOURCES = Path(__file__).parent / "arm"
# "CPU part" of /proc/cpuinfo of the cores that qemu emulates, and the features that onnxruntime looks for.
_PARTS = {"cortex-a53": ("0xd03", "asimd"), "cortex-a76": ("0xd0b", "asimd asimddp asimdrdm")}

_ONNXRUNTIME = "libonnxruntime.so.1"  # as programs that use it ask for it


@dataclass(frozen=True, slots=True)
class Peer:
    """onnxruntime for Arm. library: libonnxruntime.so of its aarch64 wheel. system: a folder with lib/, where
    ld-linux-aarch64.so.1, the C and the C++ library lie (Debian: libc6-arm64-cross and others, unpacked)."""

    library: Path
    system: Path


class Emulator:
    """Counts instructions by a qemu plugin, built from its source in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.plugin = build_plugin(folder)

    def per_run(
        self, cpu: str, command: Sequence[str], folder: Path, options: Sequence[str] = ()
    ) -> Counter[str]:
        """Instructions of one inference by symbol. command: its arguments go behind the number of inferences.

        Half the difference of three inferences and one: the start is left out.
        """
        program, *arguments = command

        def count(times: int) -> Counter[str]:
            qemu = ["qemu-aarch64", "-cpu", cpu, *options, "-plugin", str(self.plugin), "-d", "plugin"]
            done = subprocess.run(
                [*qemu, program, str(times), *arguments],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            lines = (line.rsplit(" ", 1) for line in done.stderr.splitlines())
            return Counter({name[0]: int(name[1]) for name in lines if len(name) == 2 and name[1].isdigit()})

        one, three = count(1), count(3)
        return Counter({name: (three[name] - one[name]) // 2 for name in three})


def quantized(case: Case) -> Graph:
    imported = import_float(case.model)
    samples = read_calibration(list(case.calibration), imported.graph)
    return quantize_imported(imported, samples, QuantizeOptions()).graph


def ours(
    graph: Graph, case: Case, machine: CpuMachine, cpu: str, emulator: Emulator
) -> tuple[Counter[str], Program]:
    """Instructions by symbol of one inference of the library for `machine`, and its program."""
    target = CpuTarget("arm_static", machine, "aarch64-linux-musl")
    programs = lower_variants(graph, target.planners)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target.emit(programs, "model", folder, {}, {}, Cache(default_folder()), lambda *_: None)
        case.timed_input.astype(np.float32).tofile(folder / "input")
        source = str(_SOURCES / "run_library.c")
        flags = ["-target", "aarch64-linux-musl", "-static", "-O1", f"-I{folder}"]
        _zig_cc([*flags, source, str(folder / "libmodel.a"), "-o", str(folder / "run")])
        return emulator.per_run(cpu, ["./run"], folder), programs[target.variant]


def onnxruntimes(case: Case, cpu: str, emulator: Emulator, peer: Peer) -> tuple[int, int]:
    """Instructions of one inference by onnxruntime: with unsigned activations, and with signed ones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_cpuinfo(peer, cpu)
        flags = ["-target", "aarch64-linux-gnu.2.28", "-O1", str(_SOURCES / "run_onnxruntime.c")]
        _zig_cc([*flags, str(peer.library), "-o", str(folder / "run")])
        (folder / _ONNXRUNTIME).symlink_to(peer.library)
        options = ["-L", str(peer.system), "-E", f"LD_LIBRARY_PATH={folder}"]
        case.timed_input.astype(np.float32).tofile(folder / "input")
        session = onnxruntime.InferenceSession(case.model, providers=["CPUExecutionProvider"])
        shape = [str(size) for size in case.timed_input.shape]
        command = ["./run", case.input_name, session.get_outputs()[0].name, *shape]
        quant_pre_process(case.model, folder / "clean.onnx", skip_symbolic_shape=True)

        def count(activations: QuantType) -> int:
            quantize_static(
                folder / "clean.onnx",
                folder / "model.onnx",
                Calibration(case),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=activations,
                weight_type=QuantType.QInt8,
            )
            return emulator.per_run(cpu, command, folder, options).total()

        return count(QuantType.QUInt8), count(QuantType.QInt8)


def _write_cpuinfo(peer: Peer, cpu: str) -> None:
    """onnxruntime asks /proc/cpuinfo what it may use; under qemu it would see this computer's."""
    part, features = _PARTS[cpu]
    lines = ["processor\t: 0", f"Features\t: fp {features}", "CPU implementer\t: 0x41", "CPU architecture: 8"]
    lines += ["CPU variant\t: 0x0", f"CPU part\t: {part}", "CPU revision\t: 0", ""]
    (peer.system / "proc").mkdir(exist_ok=True)
    (peer.system / "proc" / "cpuinfo").write_text("\n".join(lines))


def _zig_cc(arguments: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *arguments], check=True)
