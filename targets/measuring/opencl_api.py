"""OpenCL 1.2 by ctypes: the functions that measuring needs, the library that has them, the device of a name.

The same library and the same device as those of a compiled library (runtime/bitloom_opencl_device.h).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from ctypes import CDLL, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from schedules.mali_prelude import DOT_PRODUCTS

VARIABLE = "BITLOOM_OPENCL"
_PLACES = ("libOpenCL.so.1", "libOpenCL.so", "libGLES_mali.so", "libmali.so", "libmali.so.1")

_PLATFORM_VERSION, _PLATFORM_NAME = 0x0901, 0x0902
_TYPE, _AVAILABLE, _COMPILER, _LITTLE = 0x1000, 0x1027, 0x1028, 0x1026
_NAME, _DRIVER, _EXTENSIONS, _DOT_CAPABILITIES = 0x102B, 0x102D, 0x1030, 0x1073
_GPU, _ALL, _DOT_4X8 = 1 << 2, 0xFFFFFFFF, 1 << 1
_MOST = 64

_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "GetPlatformIDs": (c_uint, c_void_p, c_void_p),
    "GetPlatformInfo": (c_void_p, c_uint, c_size_t, c_void_p, c_void_p),
    "GetDeviceIDs": (c_void_p, c_uint64, c_uint, c_void_p, c_void_p),
    "GetDeviceInfo": (c_void_p, c_uint, c_size_t, c_void_p, c_void_p),
    "CreateContext": (c_void_p, c_uint, c_void_p, c_void_p, c_void_p, c_void_p),
    "CreateCommandQueue": (c_void_p, c_void_p, c_uint64, c_void_p),
    "CreateBuffer": (c_void_p, c_uint64, c_size_t, c_void_p, c_void_p),
    "ReleaseMemObject": (c_void_p,),
    "EnqueueWriteBuffer": (
        c_void_p,
        c_void_p,
        c_uint,
        c_size_t,
        c_size_t,
        c_void_p,
        c_uint,
        c_void_p,
        c_void_p,
    ),
    "EnqueueReadBuffer": (
        c_void_p,
        c_void_p,
        c_uint,
        c_size_t,
        c_size_t,
        c_void_p,
        c_uint,
        c_void_p,
        c_void_p,
    ),
    "CreateProgramWithSource": (c_void_p, c_uint, c_void_p, c_void_p, c_void_p),
    "BuildProgram": (c_void_p, c_uint, c_void_p, c_char_p, c_void_p, c_void_p),
    "GetProgramBuildInfo": (c_void_p, c_void_p, c_uint, c_size_t, c_void_p, c_void_p),
    "ReleaseProgram": (c_void_p,),
    "CreateKernel": (c_void_p, c_char_p, c_void_p),
    "ReleaseKernel": (c_void_p,),
    "SetKernelArg": (c_void_p, c_uint, c_size_t, c_void_p),
    "GetKernelWorkGroupInfo": (c_void_p, c_void_p, c_uint, c_size_t, c_void_p, c_void_p),
    "EnqueueNDRangeKernel": (c_void_p, c_void_p, c_uint, *(c_void_p,) * 3, c_uint, c_void_p, c_void_p),
    "Finish": (c_void_p,),
    "GetEventProfilingInfo": (c_void_p, c_uint, c_size_t, c_void_p, c_void_p),
    "ReleaseEvent": (c_void_p,),
}
_WORDS = {
    -1: "there is no such device",
    -2: "the device is not available",
    -3: "the device has no compiler",
    -4: "out of memory",
    -5: "out of the device's resources",
    -6: "out of memory",
    -11: "the program does not build",
    -52: "the launch does not suit the device",
    -54: "the launch does not suit the device",
    -55: "the launch does not suit the device",
    -61: "out of memory",
    -1001: "there is no platform",
}
_OUT_OF_MEMORY = (-4, -6, -61)


class ClError(Exception):
    """What OpenCL has refused, in words."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)
        self.what, self.code = what, code

    def __str__(self) -> str:
        return f"{self.what}: {_WORDS.get(self.code, 'the driver refuses')} (OpenCL error {self.code})"

    @property
    def out_of_memory(self) -> bool:
        return self.code in _OUT_OF_MEMORY


class NoDeviceError(Exception):
    """There is no device of that name, or no OpenCL at all; the text says what is missing."""


@cache
def offer_pocl() -> None:
    """Lets libraries find the OpenCL loader and PoCL that come with pyopencl, beside the system's devices.

    $BITLOOM_OPENCL goes before it.
    """
    spec = find_spec("pyopencl")
    if spec is None or spec.origin is None:
        return
    home = Path(spec.origin).parent
    loaders, drivers = (sorted((home / ".libs").glob(f"lib{name}-*.so*")) for name in ("OpenCL", "pocl"))
    # A process that started this one may have chosen it too.
    if not loaders or os.environ.setdefault(VARIABLE, str(loaders[0])) != str(loaders[0]):
        return
    os.environ["PYOPENCL_HOME"] = str(home)  # where this loader looks for drivers
    for driver in drivers:  # which it then opens by names alone
        ctypes.CDLL(str(driver))


class Api:
    """The functions by their names without `cl`. Errors: NoDeviceError where no library has them."""

    def __init__(self) -> None:
        offer_pocl()
        library = _library()
        self.functions: dict[str, Any] = {}
        for name, parameters in _FUNCTIONS.items():
            try:
                function = getattr(library, f"cl{name}")
            except AttributeError:
                raise NoDeviceError(
                    f"the OpenCL library has no cl{name}: it is older than OpenCL 1.2"
                ) from None
            function.argtypes = parameters
            function.restype = c_void_p if name.startswith("Create") else c_int
            self.functions[name] = function

    def call(self, name: str, *arguments: Any) -> None:
        """Errors: ClError."""
        code: int = self.functions[name](*arguments)
        if code != 0:
            raise ClError(f"cl{name}", code)

    def create(self, name: str, *arguments: Any) -> c_void_p:
        """The handle of a function whose last parameter is the error. Errors: ClError."""
        error = c_int()
        handle: int | None = self.functions[name](*arguments, byref(error))
        if not handle:
            raise ClError(f"cl{name}", error.value)
        return c_void_p(handle)

    def text(self, kind: str, handle: Any, what: int) -> str:
        """Of GetDeviceInfo or GetPlatformInfo; empty where the driver does not tell."""
        size = c_size_t()
        function = self.functions[kind]
        if function(handle, what, 0, None, byref(size)) != 0:
            return ""
        buffer = ctypes.create_string_buffer(size.value + 1)
        return (
            ""
            if function(handle, what, size, buffer, None)
            else buffer.value.decode(errors="replace").strip()
        )

    def number(self, device: Any, what: int, size: int) -> int:
        """Of a device; 0 where the driver does not tell."""
        value = c_uint64()
        failed: int = self.functions["GetDeviceInfo"](device, what, size, byref(value), None)
        return 0 if failed else value.value


def _library() -> CDLL:
    chosen = os.environ.get(VARIABLE)
    for place in (chosen,) if chosen else _PLACES:
        try:
            return CDLL(place)
        except OSError:
            continue
    raise NoDeviceError(
        "there is no OpenCL library (libOpenCL.so, or Mali's own): install the GPU's driver, or PoCL by "
        f"`pip install 'bitloom[mali]'`, or name the library in {VARIABLE}"
    )


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """options: for its compiler, by which kernels know how DOT4 is computed."""

    handle: c_void_p
    name: str
    driver: str
    options: str

    @property
    def fingerprint(self) -> str:
        return f"OpenCL {self.name}, driver {self.driver}"


def find_device(api: Api, wanted: str) -> FoundDevice:
    """The first GPU, or else the first device, whose own or whose platform's name or version holds `wanted`.

    Errors: NoDeviceError.
    """
    best: c_void_p | None = None
    seen = False
    for device, texts in _devices(api):
        seen = True
        if not any(wanted.lower() in text.lower() for text in texts) or not _is_usable(api, device):
            continue
        is_gpu = bool(api.number(device, _TYPE, 8) & _GPU)
        if is_gpu or best is None:
            best = device
        if is_gpu:
            break
    if best is None and wanted:
        raise NoDeviceError(f'no usable OpenCL device is called "{wanted}"')
    if best is None:
        raise NoDeviceError(
            f"there is no OpenCL device{' that is available and has a compiler' if seen else ''}"
        )
    name, driver = (api.text("GetDeviceInfo", best, what) for what in (_NAME, _DRIVER))
    return FoundDevice(best, name, driver, _options(api, best))


def _devices(api: Api) -> Iterator[tuple[c_void_p, tuple[str, str, str]]]:
    """Each, with its platform's name and version and its own name."""
    for platform in _handles(api.functions["GetPlatformIDs"]):
        name, version = (
            api.text("GetPlatformInfo", platform, w) for w in (_PLATFORM_NAME, _PLATFORM_VERSION)
        )
        for device in _handles(api.functions["GetDeviceIDs"], platform, _ALL):
            yield device, (name, version, api.text("GetDeviceInfo", device, _NAME))


def _handles(function: Any, *arguments: Any) -> list[c_void_p]:
    found, count = (c_void_p * _MOST)(), c_uint()
    if function(*arguments, _MOST, found, byref(count)) != 0:
        return []
    return [c_void_p(handle) for handle in found[: min(count.value, _MOST)]]


def _is_usable(api: Api, device: c_void_p) -> bool:
    return all(api.number(device, what, 4) for what in (_AVAILABLE, _COMPILER, _LITTLE))


def _options(api: Api, device: c_void_p) -> str:
    """By what the device lists, for compilers define macros of what it lacks."""
    listed = api.text("GetDeviceInfo", device, _EXTENSIONS).split()
    for extension, macro in DOT_PRODUCTS:
        if extension not in listed:
            continue
        if not extension.startswith("cl_khr"):
            return f"-cl-std=CL1.2 -D{macro}=1"
        if api.number(device, _DOT_CAPABILITIES, 8) & _DOT_4X8:
            return f"-cl-std=CL3.0 -D{macro}=1"
    return "-cl-std=CL1.2"
