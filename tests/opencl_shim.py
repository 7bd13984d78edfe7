"""OpenCL libraries that stand before the real one and answer some calls themselves."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = """
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef struct object *handle;
static void *real(const char *name) {{ return dlsym(dlopen("{library}", RTLD_NOW), name); }}
{functions}
"""

NO_PLATFORM = (
    "int clGetPlatformIDs(unsigned n, handle *p, unsigned *count) { if (count) *count = 0; return -1001; }"
)
NO_DEVICE = (
    "int clGetDeviceIDs(handle p, uint64_t t, unsigned n, handle *d, unsigned *count)"
    "{ if (count) *count = 0; return -1; }"
)
NO_MEMORY = (
    "handle clCreateBuffer(handle c, uint64_t f, size_t n, void *p, int *error) { *error = -4; return NULL; }"
)
SMALL_GROUPS = (
    "int clGetKernelWorkGroupInfo(handle k, handle d, unsigned what, size_t n, void *to, size_t *got)"
    "{ memset(to, 0, n); return 0; }"
)


def building_with(options: str) -> str:
    """A compiler that gets more options."""
    return f"""
int clBuildProgram(handle p, unsigned n, const handle *d, const char *given, void *f, void *data)
{{
    char options[4096];
    int (*next)(handle, unsigned, const handle *, const char *, void *, void *) = real("clBuildProgram");
    snprintf(options, sizeof options, "%s %s", given, "{options}");
    return next(p, n, d, options, f, data);
}}
"""


def with_extension(name: str, capabilities: int = 0) -> str:
    """A device that lists one more extension."""
    return f"""
int clGetDeviceInfo(handle d, unsigned what, size_t n, void *to, size_t *got)
{{
    int (*next)(handle, unsigned, size_t, void *, size_t *) = real("clGetDeviceInfo");
    static const char more[] = " {name}";
    if (what == 0x1073) {{ uint64_t bits = {capabilities}; memcpy(to, &bits, sizeof bits); return 0; }}
    if (what != 0x1030) return next(d, what, n, to, got);
    size_t own = 0;
    next(d, what, 0, NULL, &own);
    if (got) *got = own + sizeof more;
    if (!to) return 0;
    next(d, what, own, to, NULL);
    strcpy((char *)to + strlen(to), more);
    return 0;
}}
"""


def shim(folder: Path, *functions: str) -> Path:
    """A library of these functions, and all others of the real one. Skips where there is none."""
    found = ctypes.util.find_library("OpenCL")
    if found is None:
        pytest.skip("there is no OpenCL library: apt-get install ocl-icd-libopencl1 pocl-opencl-icd")
    source, library = folder / "shim.c", folder / "libshim.so"
    source.write_text(_SOURCE.format(library=found, functions="\n".join(functions)))
    real = _path_of(found)
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-Wl,--no-as-needed", "-ldl"]
    subprocess.run([*command, str(source), real, "-o", str(library)], check=True)
    return library


def _path_of(soname: str) -> str:
    """Where the system's loader finds it."""
    ctypes.CDLL(soname)
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[-1] for line in lines if f"/{soname.partition('.so')[0]}.so" in line)
