"""What an object file of a kernel holds, beside code: nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.convolution import plan_convolution
from schedules.machines import machine_named

I8 = ElementType.I8
FORM = Convolution(1, 6, 6, 16, 6, 6, 24, 3, 3, I8, I8, I8, pad=(1, 1))


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
@pytest.mark.parametrize("machine", ["cortex_a53", "cortex_a55", "neoverse_n2", "avx2"])
def test_an_object_holds_its_kernel_alone(machine: str, tmp_path: Path) -> None:
    plan = plan_convolution(FORM, machine_named(machine))
    path = tmp_path / "kernel.o"
    path.write_bytes(plan.build())
    command = ["readelf", "-W", "-S", "-s", str(path)]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ".debug" not in read and "hf2" not in read
    defined = [line.split()[-1] for line in read.splitlines() if " GLOBAL " in line and " UND " not in line]
    assert defined == [plan.symbol]
