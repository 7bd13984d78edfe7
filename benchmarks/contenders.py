"""Who takes part, and the pipes to their processes (`benchmarks.engines.serve`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.case import Case
from benchmarks.cases import CaseError
from benchmarks.cpuid import InstructionSet, Limit, build_limit, why_unlimited
from benchmarks.engines import RefusedError
from benchmarks.engines.serve import Job
from benchmarks.peers import LITERT, OPENVINO, Peer
from schedules.machines import host_features, host_without

_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Contender:
    """python: the interpreter that has the engine. variables: more of its environment. limit: what CPUID
    hides from it."""

    label: str
    engine: str
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    python: Path = Path(sys.executable)
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    limit: Limit | None = None

    def prepare(self, case: Case, folder: Path) -> str:
        """Quantizes or compiles the case into folder; returns what `open` takes.

        Errors: RefusedError where the engine cannot take the case, CaseError where it fails."""
        with self._serving(case, folder, None, 1) as process:
            return str(process.answer()["prepared"])

    @contextmanager
    def open(self, case: Case, folder: Path, prepared: str, threads: int) -> Iterator[Served]:
        """The model, loaded in a process that may use the processors of the calling thread."""
        with self._serving(case, folder, prepared, threads) as process:
            process.answer()
            yield process

    @contextmanager
    def _serving(self, case: Case, folder: Path, prepared: str | None, threads: int) -> Iterator[Served]:
        case.save(folder)
        job = Job(self.engine, dict(self.options), str(folder), str(folder), prepared, threads, self.limit)
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                [self.python, "-m", "benchmarks.engines.serve", job.as_json()],
                cwd=_ROOT,
                env={**os.environ, **self.variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            try:
                yield Served(f"{case.name}: {self.label}", process, errors)
            finally:
                process.kill()
                process.communicate()


@dataclass(slots=True)
class Served:
    """A contender's process. processor_seconds: what it had used when it answered last."""

    label: str
    process: subprocess.Popen[str]
    errors: IO[str]
    processor_seconds: float = 0.0

    def slot(self, seconds: float) -> float:
        """Median milliseconds of the runs of a slot. Errors: CaseError."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.processor_seconds = answer["processor_seconds"]
        return float(answer["ms"])

    def answer(self) -> dict[str, Any]:
        """Errors: RefusedError, and CaseError with the end of what the process wrote where it died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()[-1:] or [f"exit code {self.process.returncode}"]
            raise CaseError(f"{self.label}: {last[0]}")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise RefusedError(answer["refused"])
        return answer


@dataclass(frozen=True, slots=True)
class Absent:
    """A contender that cannot take part here, and why."""

    label: str
    reason: str


def contenders(instruction_set: InstructionSet | None, folder: Path) -> tuple[list[Contender], list[Absent]]:
    """Ours first, then the peers, all of them limited to the instruction set; folder takes what that needs.

    Errors: CaseError where this computer does not have the instruction set."""
    target, limit, unlimited = "host", None, None
    variables: dict[str, str] = {}
    if instruction_set is not None:
        target, unlimited = _target(instruction_set), why_unlimited()
        limit = None if unlimited else build_limit(instruction_set, folder)
        variables = {"ONEDNN_MAX_CPU_ISA": instruction_set.onednn}
    found = [Contender("bitloom", "bitloom", {"target": target})]
    absent: list[Absent] = []

    def add(label: str, engine: str, options: Mapping[str, str], peer: Peer | None, obeys: bool) -> None:
        """obeys: whether `variables` limit it as well."""
        python = Path(sys.executable) if peer is None else peer.python
        if peer is not None and python is None:
            absent.append(Absent(label, f"not installed; {peer.remedy}"))
        elif unlimited and not obeys:
            absent.append(Absent(label, f"cannot be limited: {unlimited}"))
        elif python is not None:
            found.append(Contender(label, engine, options, python, variables if obeys else {}, limit))

    add("onnxruntime int8", "onnxruntime", {"precision": "int8"}, None, obeys=False)
    add("onnxruntime fp32", "onnxruntime", {"precision": "fp32"}, None, obeys=False)
    add("OpenVINO int8", "openvino", {}, OPENVINO, obeys=True)
    add("LiteRT int8", "litert", {}, LITERT, obeys=False)
    return found, absent


def _target(instruction_set: InstructionSet) -> str:
    """Our best target without what the instruction set lacks."""
    if instruction_set.needs not in host_features():
        raise CaseError(f"--isa {instruction_set.name}: this processor has no {instruction_set.needs}")
    return f"cpu/{host_without(instruction_set.without).name}"
