"""Makes a library's four files, all or none."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from targets.library.description import LibraryDescription
from targets.library.header import exported_functions, header
from targets.library.manifest import manifest, manifest_text
from targets.library.source import blob_assembly, source
from targets.library.toolchain import LibraryError, Toolchain

RUNTIME_INCLUDE = Path(__file__).parents[1] / "runtime"


@dataclass(frozen=True, slots=True)
class LibraryFiles:
    """Where the files of a library lie."""

    header: Path
    static: Path
    shared: Path
    manifest: Path

    @staticmethod
    def of(name: str, folder: Path, toolchain: Toolchain) -> "LibraryFiles":
        shared = f"lib{name}.dylib" if toolchain.is_macos else f"lib{name}.so"
        return LibraryFiles(
            folder / f"{name}.h", folder / f"lib{name}.a", folder / shared, folder / f"{name}.json"
        )

    @property
    def names(self) -> list[str]:
        """The manifest comes last: it says that the others are complete."""
        return [path.name for path in (self.header, self.static, self.shared, self.manifest)]


def emit_library(
    description: LibraryDescription,
    objects: Sequence[Path],
    out_dir: Path,
    toolchain: Toolchain,
    extra: Mapping[str, object] | None = None,
    attachments: Mapping[str, bytes] | None = None,
) -> LibraryFiles:
    """Links `objects` (the kernels) and the description into `out_dir`, made if need be; other files in it
    stay.

    `extra` is added to the manifest; `attachments` are more files, by name. Raises LibraryError if the tools
    or the file system refuse; `out_dir` is then as it was before.
    """
    try:
        with _staging(out_dir) as staging:
            _build(description, objects, staging, toolchain, extra or {})
            _write(attachments or {}, staging)
            names = LibraryFiles.of(description.name, staging, toolchain).names
            _install(staging, out_dir, [*(attachments or {}), *names])
    except OSError as error:
        raise LibraryError(f"cannot write the library to {out_dir}: {error.strerror or error}") from error
    return LibraryFiles.of(description.name, out_dir, toolchain)


def install_files(files: Mapping[str, bytes], out_dir: Path) -> None:
    """Writes the files of a library made earlier into `out_dir`, all or none.

    Raises LibraryError if the file system refuses.
    """
    try:
        with _staging(out_dir) as staging:
            _write(files, staging)
            # The manifest comes last: it says that the others are complete.
            _install(staging, out_dir, sorted(files, key=lambda name: name.endswith(".json")))
    except OSError as error:
        raise LibraryError(f"cannot write the library to {out_dir}: {error.strerror or error}") from error


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@dataclass(frozen=True, slots=True)
class Blob:
    """Read-only memory of a library."""

    symbol: str
    contents: bytes


@dataclass(frozen=True, slots=True)
class LibrarySources:
    """The generated texts of a library."""

    header: str
    source: str
    manifest: str
    blobs: tuple[Blob, ...]

    def write(self, name: str, folder: Path) -> list[Path]:
        """Writes all but the manifest; returns the files to compile, with RUNTIME_INCLUDE as include."""
        (folder / f"{name}.h").write_text(self.header)
        (folder / f"{name}.c").write_text(self.source)
        made = [folder / f"{name}.c"]
        for blob in self.blobs:
            made.append(folder / f"{blob.symbol}.S")
            file = blob_name(blob.contents)
            made[-1].write_text(blob_assembly(blob.symbol, file))
            (folder / file).write_bytes(blob.contents)
        return made


def blob_name(constants: bytes) -> str:
    """The blob's file. Its name says its contents: zig caches compiled assembly by its text and does not
    look at what the text includes, so that other constants under one name would be those of yesterday."""
    return f"constants_{hashlib.sha256(constants).hexdigest()[:32]}.bin"


def library_sources(
    description: LibraryDescription,
    objects: Sequence[Path],
    toolchain: Toolchain,
    extra: Mapping[str, object] | None = None,
) -> LibrarySources:
    """All texts carry one digest of everything that the binary is made from."""
    name = description.name
    files = LibraryFiles.of(name, Path(), toolchain)
    named = {"header": files.header.name, "static": files.static.name, "shared": files.shared.name}
    record = manifest(description, named, toolchain.triple, extra or {})
    texts = (header(description), source(description, ""), manifest_text(record), description.opencl or "")
    digest = hashlib.sha256()
    for part in (
        *(text.encode() for text in texts),
        description.constants,
        *(path.read_bytes() for path in objects),
    ):
        digest.update(hashlib.sha256(part).digest())
    build = digest.hexdigest()
    return LibrarySources(
        header(description),
        source(description, build),
        manifest_text(record | {"build": build}),
        _blobs(description),
    )


def _blobs(description: LibraryDescription) -> tuple[Blob, ...]:
    constants = Blob(f"{description.name}__constants", description.constants)
    if description.opencl is None:
        return (constants,)
    return (constants, Blob(f"{description.name}__kernels", description.opencl.encode()))


def _build(
    description: LibraryDescription,
    objects: Sequence[Path],
    staging: Path,
    toolchain: Toolchain,
    extra: Mapping[str, object],
) -> None:
    name = description.name
    files = LibraryFiles.of(name, staging, toolchain)
    work = staging / "work"
    work.mkdir()
    sources = library_sources(description, objects, toolchain, extra)
    members: list[Path] = []
    for path in sources.write(name, work):
        members.append(work / f"{path.stem}.o")
        toolchain.compile(path, members[-1], include=[RUNTIME_INCLUDE])
    for index, path in enumerate(objects):
        # Members of one archive need names that differ, and that do not depend on the caller's temporary
        # folders.
        members.append(work / f"{name}_kernels_{index}.o")
        shutil.copyfile(path, members[-1])
    toolchain.archive(members, files.static)
    opencl = description.opencl is not None
    toolchain.link_shared(members, files.shared, exported_functions(name, opencl), dlopen=opencl)
    files.header.write_text(sources.header)
    files.manifest.write_text(sources.manifest)
    shutil.rmtree(work)


@contextmanager
def _staging(out_dir: Path) -> Generator[Path]:
    """A temporary folder on the file system of `out_dir`, removed in the end if it still exists."""
    if out_dir.exists():
        staging = Path(tempfile.mkdtemp(prefix=".bitloom-", dir=out_dir))
    else:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _install(staging: Path, out_dir: Path, names: Sequence[str]) -> None:
    if staging.parent != out_dir:
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)
        staging.rename(out_dir)
        return
    previous = staging / "previous"
    previous.mkdir()
    placed: list[str] = []
    try:
        for name in names:
            if (out_dir / name).exists():
                (out_dir / name).rename(previous / name)
            (staging / name).rename(out_dir / name)
            placed.append(name)
    except OSError:
        for name in placed:
            (out_dir / name).unlink()
        for path in previous.iterdir():
            path.rename(out_dir / path.name)
        raise
