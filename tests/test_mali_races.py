"""oclgrind finds no race and no access out of bounds in any family of kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNTIME = Path("/usr/lib/oclgrind/liboclgrind-rt.so")
pytestmark = pytest.mark.skipif(
    not RUNTIME.is_file(), reason="oclgrind is not installed: apt-get install oclgrind (Debian)"
)
pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install 'bitloom[mali]'")

KERNELS = """
from tests.test_mali_convolution import LAYERS, check
from tests.test_mali_loops import check_families
from schedules.mali import plan_gpu_kernel
from schedules.mali_machines import GENERIC
check([plan_gpu_kernel(form, GENERIC) for form in LAYERS], 1)
check_families(GENERIC, 16)
"""
# Neighbours write one element; the last one writes behind the end.
PLANTED = """
import numpy as np
import pyopencl as cl
from tests.opencl_kernel import context
text = "__kernel void f(__global int *y) { int i = get_global_id(0); y[i / 2] = i; y[i + 1] = 1; }"
memory = cl.Buffer(context(), cl.mem_flags.READ_WRITE, 64)
kernel = cl.Kernel(cl.Program(context(), text).build(), "f")
queue = cl.CommandQueue(context())
kernel(queue, (16,), (8,), memory)
queue.finish()
"""


def complaints(code: str) -> str:
    """What oclgrind says of the OpenCL programs that Python runs."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(RUNTIME),
        "OCLGRIND_DATA_RACES": "1",
        "PYOPENCL_NO_CACHE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_kernels_are_clean() -> None:
    said = complaints(KERNELS)
    assert "race" not in said and "Invalid" not in said and "error" not in said, said


def test_planted_faults_are_found() -> None:
    said = complaints(PLANTED)
    assert "data race" in said and "Invalid write" in said
