"""The simulated NPU as a device of the tuner: a candidate is a whole network, its cost is cycles."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess

import numpy as np

from compiler.interpreter import run
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph, Value
from compiler.ir.parser import parse_graph
from compiler.ir.printer import graph_text
from compiler.numerics.element import Array, ElementType
from compiler.ops import OPS
from compiler.ops.edge import Quantize
from schedules.npu_choices import Choices
from schedules.tuning.measure import Measurement, Outcome, Unit
from sim.config import NpuConfig
from sim.stream import StreamError
from targets.streams.choosing import cycles_of, machine_of
from targets.streams.lowering import Lowering, NpuProgram
from targets.streams.model import model_of
from targets.streams.running import run_model

_WORKERS = 2
_SECONDS = 300.0  # that a candidate may take
_SECONDS_TO_END = 5.0
# What a candidate that nobody has tried finds wrong with a compiler is its own outcome.
_FOUND_WRONG = (AssertionError, ArithmeticError, LookupError, ValueError, RecursionError)


def fingerprint_of(config: NpuConfig) -> str:
    """Name and digest of a configuration."""
    return f"{config.name} {machine_of(config)}"


class Network:
    """A graph on an NPU, lowered with choices, timed, and computed where it is asked for."""

    def __init__(self, graph: Graph, config: NpuConfig) -> None:
        self.graph, self.lowering = graph, Lowering(graph, config)
        self._inputs: dict[str, Array] = {}
        self._expected: dict[str, Array] = {}

    def measure(self, choices: Choices, below: float = float("inf")) -> Measurement:
        """Streams that pass the checker, and their cycles; what takes fewer than `below` is also computed
        with random inputs, and has to be the interpreter's result."""
        try:
            program = self.lowering.lower(attempts=(choices,))
            cycles = cycles_of(program)
            said = self._difference(program) if cycles.total < below else None
        except StreamError as error:
            return Measurement(Outcome.NOT_BUILT, said=f"the checker refuses it: {error}")
        except BitloomError as error:
            return Measurement(Outcome.NOT_BUILT, said=error.message)
        except MemoryError:
            return Measurement(Outcome.OUT_OF_MEMORY, said="it needs more memory than there is")
        except _FOUND_WRONG as error:
            return Measurement(Outcome.NOT_BUILT, said=f"{type(error).__name__}: {error}")
        if said is not None:
            return Measurement(Outcome.WRONG, said=said)
        return Measurement(Outcome.MEASURED, float(cycles.total), 0.0, parts=cycles.parts)

    def _difference(self, program: NpuProgram) -> str | None:
        """How outputs differ from the interpreter's, or None."""
        if not self._inputs:
            rng = np.random.default_rng(0)
            self._inputs = {v.name: _random(v, rng) for v in self.graph.inputs}
            self._expected = run(self.graph, self._inputs)
        found = run_model(model_of(program, "candidate"), self._inputs)
        for name, array in found.items():
            wrong = np.count_nonzero(_bits(array) != _bits(self._expected[name]))
            if wrong:
                return f"{wrong} of {array.size} elements of {name} are not the interpreter's"
        return None


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _random(value: Value, rng: np.random.Generator) -> Array:
    """Over the range of codes, or of those that it is quantized to."""
    element, shape = value.type.element, value.type.shape
    if element is not ElementType.F32:
        return rng.integers(element.low, element.high + 1, shape).astype(element.dtype)
    to = next((n.op.to for n, _ in value.uses if isinstance(n.op, Quantize)), None)
    if to is None:
        return rng.standard_normal(shape, np.float32)
    low, high = ((code - to.zero_point) * to.scale for code in (to.element.low, to.element.high))
    return rng.uniform(low, high, shape).astype(np.float32)


class NpuDevice:
    """Implements `schedules.tuning.measure.Device`: simulations of one network in processes of their own."""

    def __init__(self, graph: Graph, config: NpuConfig, workers: int = _WORKERS) -> None:
        self.fingerprint, self.unit, self.parallel = fingerprint_of(config), Unit.CYCLES, workers
        self._given = graph_text(graph), config
        self._pool: ProcessPoolExecutor | None = None
        self._others: set[BaseProcess] = set()
        self._least = float("inf")

    def measure(self, candidates: Sequence[Choices]) -> Iterator[tuple[int, Measurement]]:
        """Several at once; after one that ended its process or did not answer, the others one by one, for
        nobody knows which it was."""
        left = dict(enumerate(candidates))
        for at, measurement in self._together(left):
            del left[at]
            yield at, self._noted(measurement)
        for at, choices in left.items():
            yield at, self._noted(self._alone(choices))

    def _noted(self, measurement: Measurement) -> Measurement:
        self._least = min(self._least, measurement.cost)
        return measurement

    def _together(self, candidates: dict[int, Choices]) -> Iterator[tuple[int, Measurement]]:
        waiting: dict[Future[Measurement], int] = {}
        for at, choices in list(candidates.items()):
            waiting[self._submit(choices)] = at
        while waiting:
            done, _ = wait(waiting, _SECONDS, FIRST_COMPLETED)
            if not done:
                self.close()
                return
            for future in done:
                at = waiting.pop(future)
                try:
                    measurement = future.result()
                except (BrokenProcessPool, CancelledError):
                    self.close()
                    return
                yield at, measurement

    def _alone(self, choices: Choices) -> Measurement:
        try:
            return self._submit(choices).result(_SECONDS)
        except BrokenProcessPool:
            self.close()
            return Measurement(Outcome.CRASHED, said="the process that simulated it was ended")
        except TimeoutError:
            self.close()
            return Measurement(Outcome.HUNG, said=f"no answer within {_SECONDS:g} s")

    def _submit(self, choices: Choices) -> Future[Measurement]:
        with _interrupts_held():  # processes begin here: Ctrl-C is for this one
            try:
                return self._started().submit(_measure, choices, self._least)
            except BrokenProcessPool:  # a process has ended since
                self.close()
                return self._started().submit(_measure, choices, self._least)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._others = set(multiprocessing.active_children())
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.parallel, context, _begin, self._given)
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            children = set(multiprocessing.active_children()) - self._others
            for child in children:
                child.terminate()
            self._pool.shutdown()  # its thread ends before the interpreter's exit writes to its pipe
            self._pool = None
            for child in children:
                connection.wait([child.sentinel], _SECONDS_TO_END)


@contextmanager
def _interrupts_held() -> Generator[None]:
    """An interrupt waits for the end, and processes that begin in between are never interrupted."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_networks: list[Network] = []


def _begin(text: str, config: NpuConfig) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _networks[:] = [Network(parse_graph(text, OPS), config)]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _measure(choices: Choices, below: float) -> Measurement:
    return _networks[0].measure(choices, below)
