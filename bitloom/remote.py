"""A library behind a runner: the same Model, whose calls go to a program somewhere else."""

from __future__ import annotations

import signal
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from bitloom.library_files import LoadError, ResultInfo, StepInfo
from bitloom.model import Array, Call, Model, RunError, as_bytes
from targets.library.runner_program import link_runner_program
from targets.runners import Finished, Runner

_NAME_BYTES = 64
_REFUSED, _RUN_FAILED, _OTHER_BUILD = 3, 4, 5  # as in bitloom_runner.c


class RemoteModel(Model):
    """A library that each call runs once, in a context of its own, where `runner` says."""

    def __init__(
        self, manifest_path: Path, runner: Runner, threads: int = 0, variant: str | None = None
    ) -> None:
        self._runner: Runner | None = runner
        self._place = runner.name
        self._programs = tempfile.TemporaryDirectory(prefix="bitloom-")
        super().__init__(manifest_path, threads, variant)

    def layers(self, inputs: Array | Mapping[str, Array]) -> Iterator[tuple[StepInfo, Array]]:
        call = self._call(self._named((inputs,), {}))
        wanted = [(i, step.result) for i, step in enumerate(self.steps) if step.result is not None]
        regions, _ = self._execute(call, wanted, 1)
        for (index, result), region in zip(wanted, regions, strict=True):
            yield self.steps[index], replace(result, arena_offset=0).read(region)

    def time(
        self, inputs: Array | Mapping[str, Array], repeat: int = 100, warmup: int = 3
    ) -> NDArray[np.float64]:
        """As for Model. Raises RunError where the runner is no real CPU."""
        self._check_clock()
        _, seconds = self._execute(self._call(self._named((inputs,), {})), (), warmup + repeat)
        return seconds[warmup:]

    def profile(
        self, inputs: Array | Mapping[str, Array], repeat: int = 20, threads: int | None = None
    ) -> list[tuple[StepInfo, NDArray[np.float64]]]:
        """As for Model, without a call from Python in a step's time. Raises RunError where the runner is no
        real CPU."""
        self._check_clock()
        call = self._call(self._named((inputs,), {}))
        _, seconds = self._execute(call, (), repeat + 1, by_step=True, threads=threads)
        runs = seconds.reshape(repeat + 1, len(self.steps))[1:]
        return [(step, runs[:, index]) for index, step in enumerate(self.steps)]

    def _check_clock(self) -> None:
        if self._runner is not None and not self._runner.keeps_time:
            raise RunError(f"{self._place} is an emulator: its time says nothing about a real CPU")

    def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            self._programs.cleanup()
            runner.stop()

    def __del__(self) -> None:
        self.close()

    def _start(self, manifest_path: Path) -> str:
        assert self._runner is not None
        triple: str = self.manifest["triple"]
        # An emulator needs the file as long as it runs.
        program = Path(self._programs.name) / "runner"
        dlopen = bool(self.manifest.get("opencl"))
        link_runner_program(self.name, manifest_path.parent, triple, program, dlopen=dlopen)
        self._runner.start(program, triple.split("-", maxsplit=1)[0])
        return self._wanted or self._ask()

    def _ask(self) -> str:
        """The variant that the library takes there."""
        assert self._runner is not None
        finished = self._runner.execute(self._request(Call(False, [], [], None, None), (), 0))
        if finished.status != 0:
            self._refuse(finished)
        return finished.response.rstrip(b"\0").decode()

    def _run(self, call: Call) -> float:
        return float(self._execute(call, (), 1)[1][0])

    def _execute(
        self,
        call: Call,
        wanted: Sequence[tuple[int, ResultInfo]],
        repeat: int,
        *,
        by_step: bool = False,
        threads: int | None = None,
    ) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
        """Fills the call's outputs; gives the bytes of each result (step and place), and seconds of each run,
        or of each step of each run.

        With results, the library runs step by step, and no time is taken.
        """
        if self._runner is None:
            raise RunError(f"{self.name} is closed")
        threads = self._threads if threads is None else threads
        request = self._request(call, wanted, repeat, by_step=by_step, threads=threads)
        finished = self._runner.execute(request)
        if finished.status != 0:
            self._refuse(finished)
        extents = [_extent(result) for _, result in wanted]
        numbers = repeat * (len(self.steps) if by_step else 1)
        sizes = [_NAME_BYTES, *extents, *(array.nbytes for array in call.outputs), 8 * numbers]
        if len(finished.response) != sum(sizes):
            raise RunError(
                f"{self.name} on {self._place}: {len(finished.response)} bytes came back, not {sum(sizes)}"
            )
        response = np.frombuffer(finished.response, np.uint8)
        _, *parts, times = np.split(response, np.cumsum(sizes)[:-1])
        for array, part in zip(call.outputs, parts[len(wanted) :], strict=True):
            as_bytes(array)[:] = part
        return parts[: len(wanted)], times.view("<i8") * 1e-9

    def _request(
        self,
        call: Call,
        wanted: Sequence[tuple[int, ResultInfo]],
        repeat: int,
        *,
        by_step: bool = False,
        threads: int = 0,
    ) -> bytes:
        """What bitloom_runner.c describes."""
        counts = (len(call.inputs), len(call.outputs), len(wanted))
        numbers = [threads, call.quantized, repeat, by_step, *counts]
        numbers += [array.nbytes for array in (*call.inputs, *call.outputs)]
        for step, result in wanted:
            output = -1 if result.output is None else result.output
            numbers += [step, output, result.arena_offset, _extent(result)]
        build: str = self.manifest["build"]
        names = (text.encode() for text in (build, self._wanted or ""))
        head = struct.pack(f"<64s{_NAME_BYTES}s{len(numbers)}q", *names, *numbers)
        return b"".join([head, *(array.tobytes() for array in call.inputs)])

    def _refuse(self, finished: Finished) -> NoReturn:
        status, complaint = finished.status, finished.complaint
        if status == _REFUSED:
            raise LoadError(f"{self.name} on {self._place}: {complaint}")
        if status == _OTHER_BUILD:
            raise LoadError(f"{self.name}: {complaint}: compile again")
        if status == _RUN_FAILED:
            raise RunError(f"{self.name} on {self._place}: {complaint}")
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        raise RunError(f"{self.name} on {self._place}: the runner ended {how}: {complaint or 'no message'}")


def _extent(result: ResultInfo) -> int:
    """Bytes from the first to the last element of a result."""
    steps = zip(result.shape, result.strides, strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * result.storage.itemsize
