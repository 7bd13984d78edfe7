"""A static program around one library, for where Python is not: `targets/runtime/bitloom_runner.c`."""

from pathlib import Path

from targets.library.emit import RUNTIME_INCLUDE
from targets.library.toolchain import LibraryError, Toolchain


def link_runner_program(name: str, folder: Path, triple: str, output: Path, *, dlopen: bool = False) -> None:
    """Links the static library `name` in `folder`, made for `triple`, into a program for any Linux of its
    architecture; with dlopen, which a static program cannot do, for any with the C library of `triple`.

    Errors: LibraryError for a library of another system, or one without its header or archive.
    """
    architecture, system = triple.split("-")[:2]
    if system != "linux":
        raise LibraryError(f"{name} was made for {triple}; runners run libraries for Linux")
    archive, header = folder / f"lib{name}.a", folder / f"{name}.h"
    for path in (archive, header):
        if not path.is_file():
            raise LibraryError(f"there is no {path}, which the runner needs")
    defines = (f"-DBL_NAME={name}", f'-DBL_HEADER="{header.name}"')
    runner = RUNTIME_INCLUDE / "bitloom_runner.c"
    if dlopen:
        Toolchain(triple).link_program(runner, [archive], output, [folder], defines, static=False)
        return
    # musl links statically as glibc does not; the types that the runtime shares with either are the same.
    toolchain = Toolchain(f"{architecture}-linux-musl{'eabihf' if architecture == 'arm' else ''}")
    toolchain.link_program(runner, [archive], output, [folder], defines)
