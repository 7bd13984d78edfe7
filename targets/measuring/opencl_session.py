"""An open OpenCL device: programs, memory, launches and their times."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p

import numpy as np

from compiler.numerics.element import Array
from schedules.mali_kernel import ClKernel, program_source
from targets.measuring.opencl_api import Api, ClError, find_device

_PROFILING, _READ_WRITE = 1 << 1, 1 << 0
_BUILD_LOG, _KERNEL_GROUP, _START, _END = 0x1183, 0x11B0, 0x1282, 0x1283
_LOG_CHARACTERS = 400


class BuildError(Exception):
    """The driver's compiler does not take the kernels, or the device cannot run them; in its own words."""


class Session:
    """The device that `find_device` finds. Errors: NoDeviceError, ClError."""

    def __init__(self, wanted: str) -> None:
        self.api = api = Api()
        self.device = find_device(api, wanted)
        self._handle = (c_void_p * 1)(self.device.handle)
        self._context = api.create("CreateContext", None, 1, self._handle, None, None)
        self._queue = api.create("CreateCommandQueue", self._context, self.device.handle, _PROFILING)

    def build(self, kernels: Sequence[ClKernel]) -> Program:
        """Errors: BuildError."""
        return Program(self, kernels)

    def memory(self, contents: Array) -> c_void_p:
        """A buffer of these bytes. Errors: ClError."""
        data = np.ascontiguousarray(contents)
        buffer = self.api.create("CreateBuffer", self._context, _READ_WRITE, data.nbytes, None)
        pointer = c_void_p(data.ctypes.data)
        self.api.call("EnqueueWriteBuffer", self._queue, buffer, 1, 0, data.nbytes, pointer, 0, None, None)
        return buffer

    def read(self, buffer: c_void_p, size: int) -> Array:
        data = np.empty(size, np.uint8)
        pointer = c_void_p(data.ctypes.data)
        self.api.call("EnqueueReadBuffer", self._queue, buffer, 1, 0, size, pointer, 0, None, None)
        return data

    def release(self, buffers: Sequence[c_void_p]) -> None:
        for buffer in buffers:
            self.api.call("ReleaseMemObject", buffer)

    def launch(self, kernel: ClKernel, handle: c_void_p) -> c_void_p:
        """Starts it; the event of its end."""
        event = c_void_p()
        sizes = [(c_size_t * 3)(*size) for size in (kernel.global_size, kernel.work_group)]
        self.api.call("EnqueueNDRangeKernel", self._queue, handle, 3, None, *sizes, 0, None, byref(event))
        return event

    def finish(self) -> None:
        self.api.call("Finish", self._queue)

    def seconds(self, events: Sequence[c_void_p]) -> float:
        """That the device took for all; the events are gone then."""
        total = 0
        for event in events:
            start, end = c_uint64(), c_uint64()
            for what, value in ((_START, start), (_END, end)):
                self.api.call("GetEventProfilingInfo", event, what, 8, byref(value), None)
            self.api.call("ReleaseEvent", event)
            total += end.value - start.value
        return total * 1e-9

    @property
    def context(self) -> c_void_p:
        return self._context


class Program:
    """Kernels that are built for the device, with arguments that can be set."""

    def __init__(self, session: Session, kernels: Sequence[ClKernel]) -> None:
        self._session, self._kernels = session, tuple(kernels)
        self._handles: list[c_void_p] = []
        api, source = session.api, program_source(kernels).encode()
        text, length = (c_char_p * 1)(source), (c_size_t * 1)(len(source))
        self._program = api.create("CreateProgramWithSource", session.context, 1, text, length)
        try:
            self._build()
            for kernel in self._kernels:
                self._handles.append(api.create("CreateKernel", self._program, kernel.name.encode()))
                self._check_group(kernel, self._handles[-1])
        except ClError as error:
            self.close()
            raise BuildError(str(error)) from error
        except BuildError:
            self.close()
            raise

    def _build(self) -> None:
        session, api = self._session, self._session.api
        device = session.device
        handle = (c_void_p * 1)(device.handle)
        build = api.functions["BuildProgram"]
        code: int = build(self._program, 1, handle, device.options.encode(), None, None)
        if code != 0:
            log = ctypes.create_string_buffer(1 << 16)
            size = c_size_t(len(log) - 1)
            tell = api.functions["GetProgramBuildInfo"]
            tell(self._program, device.handle, _BUILD_LOG, size, log, None)
            said = " / ".join(log.value.decode(errors="replace").split("\n"))[:_LOG_CHARACTERS]
            raise BuildError(f"{ClError('the compiler', code)}: {said.strip(' /')}")

    def _check_group(self, kernel: ClKernel, handle: c_void_p) -> None:
        most, device = c_size_t(), self._session.device.handle
        tell = self._session.api.functions["GetKernelWorkGroupInfo"]
        tell(handle, device, _KERNEL_GROUP, 8, byref(most), None)
        x, y, z = kernel.work_group
        if most.value < x * y * z:
            raise BuildError(
                f"the device has registers for {most.value} work-items of {kernel.name}, not for {x * y * z}"
            )

    def set_arguments(self, operands: Sequence[tuple[c_void_p, int]]) -> None:
        """Of all kernels: memory and the offset in it."""
        for handle in self._handles:
            for index, (memory, offset) in enumerate(operands):
                call = self._session.api.call
                call("SetKernelArg", handle, 2 * index, ctypes.sizeof(c_void_p), byref(memory))
                call("SetKernelArg", handle, 2 * index + 1, 4, byref(c_int(offset)))

    def launch(self) -> list[c_void_p]:
        """Starts all kernels, one after the other; the events of their ends. Errors: ClError."""
        launch = self._session.launch
        return [launch(kernel, h) for kernel, h in zip(self._kernels, self._handles, strict=True)]

    def close(self) -> None:
        api = self._session.api
        for handle in self._handles:
            api.call("ReleaseKernel", handle)
        self._handles = []
        api.call("ReleaseProgram", self._program)
