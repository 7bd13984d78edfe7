"""Running a compiled library from Python: a Model over the library's C functions, by ctypes."""

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from bitloom.library_files import (
    LoadError,
    PortInfo,
    StepInfo,
    open_shared,
    port_info,
    read_manifest,
    step_info,
    variant_records,
)
from compiler.ir.diagnostics import BitloomError

Array = NDArray[Any]


class RunError(BitloomError):
    """A library refused a call."""


@dataclass(frozen=True, slots=True)
class Call:
    """Checked arrays and the C arrays of their addresses."""

    quantized: bool
    inputs: list[Array]
    outputs: list[Array]
    input_pointers: Any
    output_pointers: Any


class Model:
    """A library with one context. Calls from several threads wait for each other: load it once for each.

    variant: the one that the context runs, of those that the library holds. steps: of that variant.
    """

    def __init__(self, manifest_path: Path, threads: int = 0, variant: str | None = None) -> None:
        self._context: int | None = None
        self.manifest: dict[str, Any] = read_manifest(manifest_path)
        self.name: str = self.manifest["name"]
        self.inputs = tuple(port_info(record) for record in self.manifest["inputs"])
        self.outputs = tuple(port_info(record) for record in self.manifest["outputs"])
        self._variants = variant_records(self.manifest, variant)
        self._lock = threading.Lock()
        self._threads = threads
        self._process = os.getpid()
        self.variant = self._start(manifest_path)
        self.steps = tuple(step_info(record) for record in self._variants[self.variant]["steps"])

    def _start(self, manifest_path: Path) -> str:
        """Gives the name of the variant that runs."""
        self._library = open_shared(manifest_path, self.manifest)
        self._context = self._create(self._threads)
        name: bytes = self._function("variant", ctypes.c_char_p, ctypes.c_void_p)(self._context)
        return name.decode()

    @property
    def _wanted(self) -> str | None:
        """The variant to run; None where the CPU has a choice."""
        return next(iter(self._variants)) if len(self._variants) == 1 else None

    def __call__(self, *arrays: Array | Mapping[str, Array], **named: Array) -> Array | dict[str, Array]:
        """model(x), model(a, b), model(x=a), model({"x": a}); gives the result, or a dict of several.

        Arrays of codes (each float input's code type) give codes; float32 arrays give real numbers.
        """
        call = self._call(self._named(arrays, named))
        self._run(call)
        if len(call.outputs) == 1:
            return call.outputs[0]
        return {port.name: array for port, array in zip(self.outputs, call.outputs, strict=True)}

    def run(self, output_names: Sequence[str] | None, inputs: Mapping[str, Array]) -> list[Array]:
        """As `onnxruntime.InferenceSession.run`: the named outputs, or all in order."""
        known = [port.name for port in self.outputs]
        for name in output_names or ():
            if name not in known:
                raise ValueError(f'there is no output "{name}"; the outputs are {", ".join(known)}')
        call = self._call(inputs)
        self._run(call)
        return [call.outputs[known.index(name)] for name in output_names or known]

    def get_inputs(self) -> list[PortInfo]:
        return list(self.inputs)

    def get_outputs(self) -> list[PortInfo]:
        return list(self.outputs)

    def layers(self, inputs: Array | Mapping[str, Array]) -> Iterator[tuple[StepInfo, Array]]:
        """Runs step by step; yields each step that has a result, and the codes that it made.

        Works in a context of its own, so that the model can be used in between.
        """
        call = self._call(self._named((inputs,), {}))
        with self._own_context(self._threads) as context:
            yield from self._layers(context, call)

    def profile(
        self, inputs: Array | Mapping[str, Array], repeat: int = 20, threads: int | None = None
    ) -> list[tuple[StepInfo, NDArray[np.float64]]]:
        """Each step, and the seconds that it took in each of `repeat` runs after a first one.

        threads: those of the model, if left out. Works in a context of its own. A step's time includes its
        call from Python, about a microsecond, and for more than one thread the wait for all of them.
        """
        call = self._call(self._named((inputs,), {}))
        seconds = np.empty((repeat + 1, len(self.steps)))
        with self._own_context(self._threads if threads is None else threads) as context:
            run_step = self._step_function(call)
            for row in seconds:
                for index in range(len(self.steps)):
                    start = time.perf_counter()
                    status = run_step(context, index, call.input_pointers, call.output_pointers)
                    row[index] = time.perf_counter() - start
                    self._check(status)
        return [(step, seconds[1:, index]) for index, step in enumerate(self.steps)]

    def time(
        self, inputs: Array | Mapping[str, Array], repeat: int = 100, warmup: int = 3
    ) -> NDArray[np.float64]:
        """Seconds that each of `repeat` runs took, inside the library, after `warmup` runs."""
        call = self._call(self._named((inputs,), {}))
        for _ in range(warmup):
            self._run(call)
        seconds = np.empty(repeat)
        for index in range(repeat):
            seconds[index] = self._run(call)
        return seconds

    def close(self) -> None:
        """Frees the context. Closing twice is allowed."""
        with self._lock:
            context, self._context = self._context, None
        if context is not None and self._process == os.getpid():
            self._function("destroy", None, ctypes.c_void_p)(context)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a bitloom Model cannot be pickled; load the library in each process")

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        function = self._library[f"{self.name}_{name}"]
        function.restype, function.argtypes = result, arguments
        return function

    def _create(self, threads: int) -> int:
        reason = ctypes.c_char_p()
        arguments = (ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))
        create = self._function("create_variant", ctypes.c_void_p, *arguments)
        wanted = self._wanted
        context: int | None = create(wanted and wanted.encode(), threads, ctypes.byref(reason))
        if context is None:
            raise LoadError(f"{self.name}: {(reason.value or b'unknown reason').decode(errors='replace')}")
        return context

    def _run(self, call: Call) -> float:
        """Returns the seconds that the library's function took."""
        run = self._function(
            "run_quantized" if call.quantized else "run", ctypes.c_int, *(ctypes.c_void_p,) * 3
        )
        with self._lock:
            if self._context is None:
                raise RunError(f"{self.name} is closed")
            if self._process != os.getpid():
                raise RunError(f"{self.name} was loaded before fork(); load it again in the new process")
            start = time.perf_counter()
            status = run(self._context, call.input_pointers, call.output_pointers)
            seconds = time.perf_counter() - start
        self._check(status)
        return seconds

    @contextmanager
    def _own_context(self, threads: int) -> Generator[int]:
        """A context beside the model's own, so that the model can be used meanwhile."""
        context = self._create(threads)
        try:
            yield context
        finally:
            self._function("destroy", None, ctypes.c_void_p)(context)

    def _step_function(self, call: Call) -> Callable[..., int]:
        return self._function(
            "run_step_quantized" if call.quantized else "run_step",
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
        )

    def _layers(self, context: int, call: Call) -> Iterator[tuple[StepInfo, Array]]:
        run_step = self._step_function(call)
        address = self._function("arena", ctypes.c_void_p, ctypes.c_void_p)
        size: int = self._variants[self.variant]["arena_bytes"]
        for index, step in enumerate(self.steps):
            self._check(run_step(context, index, call.input_pointers, call.output_pointers))
            if step.result is None:
                continue
            output = step.result.output
            # An OpenCL device may give its memory another address each time.
            arena = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address(context)))
            yield step, step.result.read(arena if output is None else as_bytes(call.outputs[output]))

    def _check(self, status: int) -> None:
        if status != 0:
            reasons = {1: "a pointer is misaligned", 2: "a kernel failed"}
            raise RunError(f"{self.name}: {reasons.get(status, f'status {status}')}")

    def _named(
        self, arrays: tuple[Array | Mapping[str, Array], ...], named: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        if len(arrays) == 1 and isinstance(arrays[0], Mapping) and not named:
            return arrays[0]
        given: dict[str, Array] = dict(named)
        if len(arrays) > len(self.inputs):
            raise ValueError(f"{len(arrays)} arrays for {len(self.inputs)} inputs")
        for port, array in zip(self.inputs, arrays, strict=False):
            if isinstance(array, Mapping) or port.name in given:
                raise TypeError(f'input "{port.name}" is given twice or as a mapping among others')
            given[port.name] = array
        return given

    def _call(self, inputs: Mapping[str, Array]) -> Call:
        expected = {port.name for port in self.inputs}
        if expected != set(inputs):
            missing = ", ".join(sorted(expected - set(inputs))) or "none"
            unknown = ", ".join(sorted(set(inputs) - expected)) or "none"
            takes = ", ".join(port.name for port in self.inputs)
            raise ValueError(f"{self.name} takes {takes}: missing {missing}, unknown {unknown}")
        given = {name: np.asarray(array) for name, array in inputs.items()}
        # One array of codes makes the call a call in codes; then every other must be codes too.
        quantized = any(
            port.codes_dtype is not None and given[port.name].dtype == port.codes_dtype
            for port in self.inputs
        )
        ready = [_prepared(port, given[port.name], quantized) for port in self.inputs]
        outputs = [_aligned(port.shape, port.dtype_for(quantized), port.alignment) for port in self.outputs]
        return Call(quantized, ready, outputs, _pointers(ready), _pointers(outputs))


def _prepared(port: PortInfo, array: Array, quantized: bool) -> Array:
    dtype = port.dtype_for(quantized)
    if array.shape != port.shape:
        raise ValueError(
            f'input "{port.name}" has shape {_shape(array.shape)}, expected {_shape(port.shape)}'
        )
    if array.dtype != dtype:
        codes = f" (or codes as {port.codes_dtype})" if port.codes_dtype is not None and not quantized else ""
        mixed = " as another input is given in codes" if quantized and port.codes_dtype is not None else ""
        raise ValueError(f'input "{port.name}" is {array.dtype}, expected {dtype}{codes}{mixed}')
    if array.flags.c_contiguous and array.ctypes.data % port.alignment == 0:
        return array
    ready = _aligned(port.shape, dtype, port.alignment)
    ready[...] = array
    return ready


def _shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any], alignment: int) -> Array:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size].view(dtype).reshape(shape)


def as_bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def _pointers(arrays: Sequence[Array]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
