"""Compiling, linking and archiving, by the `ziglang` wheel or the user's own C compiler."""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.ir.diagnostics import BitloomError

_SHOWN_LINES = 12
_BIONIC_STUB = Path(__file__).parents[1] / "runtime" / "bitloom_bionic_stub.c"


class LibraryError(BitloomError):
    """A library could not be made. The message says what was tried and what the system answered."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Makes binaries for `triple`, spelt as zig does: x86_64-linux-gnu.2.34, aarch64-linux-musl,
    aarch64-macos.

    `cc` is a command that takes the place of `zig cc`; it must itself make code for the triple.
    """

    triple: str
    cc: tuple[str, ...] = ()

    @staticmethod
    def host(cc: Sequence[str] = ()) -> "Toolchain":
        """For this machine, and for every Linux with the same C library that is not older than it need be."""
        return Toolchain(host_triple(), tuple(cc))

    @property
    def is_macos(self) -> bool:
        return "macos" in self.triple

    @property
    def is_arm32(self) -> bool:
        return self.triple.startswith("arm-")

    @property
    def is_android(self) -> bool:
        return "android" in self.triple

    def compile(
        self, source: Path, output: Path, include: Sequence[Path] = (), flags: Sequence[str] = ()
    ) -> None:
        """Makes position-independent object code without debug information from C or assembly."""
        language = ["-std=c11", "-Wall", "-Wextra", "-Werror"] if source.suffix == ".c" else []
        folders = [f"-I{folder.absolute()}" for folder in include]
        # Paths are given relative to the source's folder: nothing in the object depends on where it was made.
        made = ["-c", source.name, "-o", str(output.absolute())]
        # 32-bit Arm: tables for unwinding would bring an unwinder into the library.
        plain = ["-fno-unwind-tables", "-fno-asynchronous-unwind-tables"] if self.is_arm32 else []
        arguments = ["-O2", "-g0", "-fPIC", *plain, *language, *folders, *flags, *made]
        self._run([*self._compiler(), *arguments], source.parent)

    def link_shared(
        self, objects: Sequence[Path], output: Path, exports: Sequence[str], *, dlopen: bool = False
    ) -> None:
        """Makes a shared library that exports `exports` alone and lacks no symbol but the C library's.

        dlopen: it loads libraries itself.
        """
        with tempfile.TemporaryDirectory(prefix="bitloom-") as folder:
            options = self._shared_options(output.name, exports, Path(folder), dlopen)
            self._run([*self._compiler(), "-shared", *options, *map(str, objects), "-o", str(output)])

    def link_program(
        self,
        source: Path,
        objects: Sequence[Path],
        output: Path,
        include: Sequence[Path] = (),
        flags: Sequence[str] = (),
        *,
        static: bool = True,
    ) -> None:
        """Makes a program from C and objects or archives. static: without any library of the system."""
        language = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
        folders = [f"-I{folder}" for folder in include]
        files = [*map(str, [source, *objects]), "-o", str(output)]
        kind = ["-static"] if static else ["-ldl", "-pthread"]
        self._run([*self._compiler(), "-O2", *kind, *language, *folders, *flags, *files])

    def link_plugin(self, source: Path, output: Path) -> None:
        """Makes a shared library from C whose host program brings what it lacks."""
        options = ["-O2", "-g0", "-shared", "-fPIC", "-Wl,-undefined,dynamic_lookup"]
        self._run([*self._compiler(), *options, str(source), "-o", str(output)])

    def archive(self, objects: Sequence[Path], output: Path) -> None:
        """Makes a static library; members carry no time or owner."""
        self._run([*_zig("ar"), "qcsD", str(output), *map(str, objects)])

    def _shared_options(self, name: str, exports: Sequence[str], folder: Path, dlopen: bool) -> list[str]:
        """folder: for files that the linker reads."""
        names = folder / "exports"
        if self.is_macos:
            # zig's own Mach-O linker has no export lists: there, kernels stay visible beside the API.
            names.write_text("".join(f"_{name}\n" for name in exports))
            options = [f"-Wl,-exported_symbols_list,{names}"] if self.cc else []
            return [*options, f"-Wl,-install_name,@rpath/{name}"]
        names.write_text("{ global: " + " ".join(f"{name};" for name in exports) + " local: *; };\n")
        options = [f"-Wl,--version-script={names}", "-Wl,-z,defs", "-Wl,--as-needed"]
        options += ["-Wl,--strip-debug", "-Wl,--gc-sections"]
        loader = ["-ldl"] if dlopen else []
        system = self._android_options(folder, dlopen) if self.is_android else ["-pthread", *loader]
        return [*options, f"-Wl,-soname,{name}", *system]

    def _android_options(self, folder: Path, dlopen: bool) -> list[str]:
        options = ["-nostdlib", "-Wl,-z,max-page-size=16384"]
        if self.cc:
            return [*options, "-lc", *(["-ldl"] if dlopen else [])]
        # zig has no bionic: libraries of the same names, without contents, take its place.
        names = ["libc.so", "libdl.so"] if dlopen else ["libc.so"]
        for name in names:
            empty = ["-shared", "-fPIC", "-nostdlib", "-fno-builtin", f"-Wl,-soname,{name}"]
            part = ["-DBL_LIBDL"] if name == "libdl.so" else []
            self._run([*self._compiler(), *empty, *part, str(_BIONIC_STUB), "-o", str(folder / name)])
        return [*options, *(str(folder / name) for name in names)]

    def _compiler(self) -> list[str]:
        return list(self.cc) if self.cc else [*_zig("cc"), "-target", self.triple]

    def _run(self, command: list[str], folder: Path | None = None) -> None:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=_environment(),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise LibraryError(f"cannot start {command[0]}: {error.strerror}") from error
        if done.returncode != 0:
            raise LibraryError(_failure(command, done.returncode, done.stderr))


def host_triple() -> str:
    """This machine's triple.

    glibc 2.34 has the threads inside libc.so.6; where the machine has it, the library needs no other file.
    Older machines get the oldest glibc that zig links for both x86-64 and AArch64, 2.17.
    """
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    if sys.platform == "darwin":
        return f"{machine}-macos"
    libc, version = platform.libc_ver()
    if libc != "glibc":
        return f"{machine}-linux-musl"
    major, minor = (int(part) for part in version.split(".")[:2])
    return f"{machine}-linux-gnu.{'2.34' if (major, minor) >= (2, 34) else '2.17'}"


def _zig(tool: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", tool]


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    if "ZIG_GLOBAL_CACHE_DIR" not in environment and not _is_writable(_default_cache(environment)):
        environment["ZIG_GLOBAL_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"bitloom-zig-{os.getuid()}")
    return environment


def _default_cache(environment: dict[str, str]) -> Path:
    """Where zig keeps compiled start files and compiler-rt, unless told otherwise."""
    if environment.get("XDG_CACHE_HOME"):
        return Path(environment["XDG_CACHE_HOME"]) / "zig"
    return Path(environment.get("HOME") or "/nonexistent") / ".cache" / "zig"


def _is_writable(folder: Path) -> bool:
    """Whether `folder` can be written, or made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _failure(command: list[str], code: int, stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line] or lines
    shown = errors[:_SHOWN_LINES]
    if len(errors) > len(shown):
        shown.append(f"… and {len(errors) - len(shown)} more lines")
    tool = " ".join(command[: command.index("ziglang") + 2] if "ziglang" in command else command[:1])
    return f"{tool} failed with exit code {code}:\n" + "\n".join(f"  {line}" for line in shown)
