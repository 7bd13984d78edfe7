"""A library for OpenCL on a device of this computer that is chosen by name."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitloom.library_files import LoadError, StepInfo
from bitloom.model import Array, Model
from targets.measuring.opencl_api import offer_pocl


class DeviceModel(Model):
    """As Model, on the first OpenCL device whose own or whose platform's name holds `device`.

    Errors: LoadError for a library without OpenCL kernels, and where there is no such device.
    """

    def __init__(
        self, manifest_path: Path, device: str = "", threads: int = 0, variant: str | None = None
    ) -> None:
        offer_pocl()
        self._place = device
        super().__init__(manifest_path, threads, variant)

    @property
    def device(self) -> str:
        """Its name, its platform and driver, and how dot products are computed."""
        name: bytes = self._function("device", ctypes.c_char_p, ctypes.c_void_p)(self._context)
        return name.decode(errors="replace")

    def device_times(self, inputs: Array | Mapping[str, Array]) -> list[tuple[StepInfo, float]]:
        """Each step, and the seconds that the device took for it in one run; 0 for steps of the CPU."""
        call = self._call(self._named((inputs,), {}))
        nanoseconds: NDArray[np.uint64] = np.zeros(len(self.steps), np.uint64)
        profile = self._function("profile", ctypes.c_int, *(ctypes.c_void_p,) * 4)
        with self._own_context(self._threads) as context:
            self._check(profile(context, call.input_pointers, call.output_pointers, nanoseconds.ctypes.data))
        return [(step, int(time) * 1e-9) for step, time in zip(self.steps, nanoseconds, strict=True)]

    def profile(
        self, inputs: Array | Mapping[str, Array], repeat: int = 20, threads: int | None = None
    ) -> list[tuple[StepInfo, NDArray[np.float64]]]:
        """As for Model, by the device's clock; 0 for steps of the CPU. Threads mean nothing to it."""
        del threads
        runs = [self.device_times(inputs) for _ in range(repeat + 1)][1:]
        return [(step, np.array([run[index][1] for run in runs])) for index, step in enumerate(self.steps)]

    def _create(self, threads: int) -> int:
        if not self.manifest.get("opencl"):
            raise LoadError(
                f"{self.name} was compiled for {self.manifest.get('target', 'a CPU')}, not for OpenCL",
                "compile it with --target mali/generic@host",
            )
        reason = ctypes.c_char_p()
        arguments = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))
        create = self._function("create_on", ctypes.c_void_p, *arguments)
        context: int | None = create(self._place.encode(), None, threads, ctypes.byref(reason))
        if context is None:
            raise LoadError(f"{self.name}: {(reason.value or b'unknown reason').decode(errors='replace')}")
        return context
