"""`load(path)`: a compiled library as a Model, here or on another machine."""

from __future__ import annotations

from pathlib import Path

from bitloom.library_files import LoadError, manifest_path_of
from bitloom.model import Model, RunError

__all__ = ["LoadError", "Model", "RunError", "load"]


def load(path: str | Path, threads: int = 0, runner: str = "local", variant: str | None = None) -> Model:
    """Loads a library from its folder, or from its `.json` or shared library. `threads=0` uses all cores, or
    as many as the library was found fastest with when it was tuned.

    runner: where it runs: "local", "opencl" or "opencl:NAME" for a library that was compiled for OpenCL (on
    the first device whose own or whose platform's name holds NAME), "qemu:CPU" for an emulated Arm core,
    "ssh:USER@HOST" or "ssh:USER@HOST:PORT" for a board. Elsewhere than here, close the model to clean up
    there.
    variant: one of those that the library holds, in place of the best that the CPU has.
    Raises LoadError if there is no library, more than one, or this CPU cannot run it; RunnerError where the
    runner is not there. A distant CPU is asked on the first call, or now where it has a choice of variants.
    """
    manifest_path = manifest_path_of(Path(path))
    if runner == "local":
        return Model(manifest_path, threads, variant)
    kind, _, place = runner.partition(":")
    if kind == "opencl":
        from bitloom.device import DeviceModel

        return DeviceModel(manifest_path, place, threads, variant)
    from bitloom.remote import RemoteModel  # only then: most callers have no board
    from targets.runners import runner_named

    return RemoteModel(manifest_path, runner_named(runner), threads, variant)
