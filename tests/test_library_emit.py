"""The files of a library: what they contain, and that they come all or none."""

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from targets.library.description import Arena, Constant, CpuFeature, LibraryDescription
from targets.library.emit import emit_library
from targets.library.header import exported_functions
from targets.library.toolchain import LibraryError, Toolchain
from tests.library_kernels import build, description, kernel_object, output_of, with_variant

HOST = Toolchain.host()


def needs(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} (binutils) is not installed")


def test_only_the_api_is_exported_and_only_libc_is_needed(tmp_path: Path) -> None:
    needs("readelf")
    needs("nm")
    shared = str(build(tmp_path).files.shared)
    exported = output_of(["nm", "-D", "--defined-only", "--format=just-symbols", shared]).split()
    assert sorted(exported) == sorted(exported_functions("tiny"))
    needed = re.findall(r"NEEDED.*\[(.*)\]", output_of(["readelf", "-dW", shared]))
    allowed = {"libc.so.6"} if HOST.triple.endswith("2.34") else {"libc.so", "libc.so.6", "libpthread.so.0"}
    assert set(needed) <= allowed
    sections = output_of(["readelf", "-SW", shared])
    assert ".debug" not in sections and ".data " not in sections and ".bss" not in sections


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (tmp_path / "a", tmp_path / "b")
    for folder in (first, second):
        folder.mkdir()
        build(folder)
    for file in (first / "out_tiny").iterdir():
        assert file.read_bytes() == (second / "out_tiny" / file.name).read_bytes(), file.name


def test_libraries_that_differ_in_constants_alone_keep_their_own(tmp_path: Path) -> None:
    """One name, one structure, one length: only the numbers tell two trainings of a model apart."""
    kernels, first = [kernel_object(tmp_path)], description()
    changed = bytes(64) + b"\x2a\x2b\x2c" + first.constants[67:]
    for described, folder in ((first, "a"), (replace(first, constants=changed), "b")):
        files = emit_library(described, kernels, tmp_path / folder, HOST)
        for file in (files.static, files.shared):
            assert described.constants in file.read_bytes(), file.name


def test_the_manifest_carries_the_callers_records(tmp_path: Path) -> None:
    described, kernels = description(), [kernel_object(tmp_path)]
    files = emit_library(described, kernels, tmp_path / "out", HOST, {"tuning": [1, 2]})
    record = json.loads(files.manifest.read_text())
    assert record["tuning"] == [1, 2]
    assert [step["layer"] for step in record["variants"][0]["steps"]] == ["x", "/a/*Add*/", "/ReduceSum", "y"]
    with pytest.raises(ValueError, match="keys of its own named variants"):
        emit_library(described, kernels, tmp_path / "out", HOST, {"variants": []})


def test_an_existing_folder_keeps_its_other_files(tmp_path: Path) -> None:
    out = tmp_path / "out_tiny"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for _ in range(2):
        build(tmp_path)
        assert sorted(path.name for path in out.iterdir()) == [
            "libtiny.a",
            "libtiny.so",
            "notes.txt",
            "tiny.h",
            "tiny.json",
        ]


@pytest.mark.parametrize("existing", [True, False])
def test_a_failing_link_leaves_everything_as_it_was(tmp_path: Path, existing: bool) -> None:
    source = tmp_path / "tiny_part.c"
    source.write_text("int tiny_quantize(void) { extern int absent(void); return absent(); }\n")
    HOST.compile(source, tmp_path / "tiny_part.o")
    out = tmp_path / "out"
    if existing:
        out.mkdir()
        (out / "tiny.json").write_text("before")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        LibraryError, match=r"(?s)ziglang cc failed with exit code .*undefined symbol: absent"
    ):
        emit_library(description(), [tmp_path / "tiny_part.o"], out, HOST)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unusable_output_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    kernels = [kernel_object(tmp_path)]
    for out in (file, file / "out"):
        with pytest.raises(LibraryError, match=f"cannot write the library to {out}: "):
            emit_library(description(), kernels, out, HOST)


def test_an_interrupted_replacement_brings_the_old_library_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(tmp_path)
    out = built.files.manifest.parent
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.parent != out and target == out / "libtiny.so" and path.parent.name != "previous":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    changed = replace(built.description, constants=bytes(80))
    with pytest.raises(LibraryError, match=f"cannot write the library to {out}: Input/output error"):
        emit_library(changed, [tmp_path / "tiny_kernels.o"], out, HOST)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kernels = [kernel_object(tmp_path)]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(LibraryError, match="out: No space left on device"):
        emit_library(description(), kernels, tmp_path / "out", HOST)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    absent = Toolchain(HOST.triple, ("no-such-cc",))
    with pytest.raises(LibraryError, match="cannot start no-such-cc: No such file"):
        emit_library(description(), [kernel_object(tmp_path)], tmp_path / "out", absent)


def test_a_users_compiler_takes_the_place_of_zig(tmp_path: Path) -> None:
    needs("gcc")
    with_gcc = Toolchain.host(["gcc"])
    kernels = [kernel_object(tmp_path, toolchain=with_gcc)]
    files = emit_library(description(), kernels, tmp_path / "out", with_gcc)
    assert files.shared.stat().st_size > 0


def test_zig_works_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("not a folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    assert kernel_object(tmp_path).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "triple", ["aarch64-linux-gnu.2.28", "aarch64-linux-musl", "x86_64-linux-gnu.2.17", "aarch64-macos"]
)
def test_libraries_for_other_machines_link(tmp_path: Path, triple: str) -> None:
    toolchain = Toolchain(triple)
    kernels = [kernel_object(tmp_path, toolchain=toolchain)]
    files = emit_library(description(), kernels, tmp_path / "out", toolchain)
    assert files.shared.stat().st_size > 0


def test_other_constants_under_the_same_name_are_not_those_of_an_earlier_library(tmp_path: Path) -> None:
    """zig caches assembly by its text alone, and this text includes the constants by reference."""
    good, kernels = description(), [kernel_object(tmp_path)]
    for fill in (b"\x11", b"\x22"):
        other = replace(good, constants=fill * len(good.constants))
        files = emit_library(other, kernels, tmp_path / "out", Toolchain.host())
        assert other.constants in files.shared.read_bytes()
        assert other.constants in files.static.read_bytes()


def test_contradictory_descriptions_are_refused() -> None:
    good = description()
    (variant,) = good.variants
    port, step = variant.inputs[0], variant.steps[1]
    assert port.edge is not None

    def with_step(**changes: object) -> LibraryDescription:
        changed = replace(step, **changes)
        return with_variant(good, steps=(variant.steps[0], changed, *variant.steps[2:]))

    with pytest.raises(ValueError, match=r'port "x": its edge is step 1, but steps \[0\] use the port'):
        with_variant(good, inputs=(replace(port, edge=replace(port.edge, step=1)),))
    with pytest.raises(ValueError, match='kernel "o ther" of step "add" is no C identifier'):
        with_step(kernel="o ther")
    for operand in (Arena(9999), Constant(9999)):
        with pytest.raises(
            ValueError, match=rf'step "add" uses {re.escape(str(operand))}, which lies outside'
        ):
            with_step(operands=(operand,))
    with pytest.raises(ValueError, match=r'the result of step "add" takes 240 bytes where .* has 239'):
        with_variant(good, arena_bytes=variant.arena_bytes - 1)
    with pytest.raises(ValueError, match="more than one step is named add"):
        with_variant(good, steps=(*variant.steps, step))
    with pytest.raises(ValueError, match="more than one variant is named plain"):
        replace(good, variants=(variant, variant))
    with pytest.raises(ValueError, match="variants that need more of a CPU come first"):
        more = replace(variant, name="more", cpu_features=(CpuFeature.ASIMD,))
        replace(good, variants=(variant, more))
    with pytest.raises(ValueError, match='variants "other" and "plain" differ in a port'):
        moved = replace(port, edge=replace(port.edge, zero_point=1))
        replace(good, variants=(variant, replace(variant, name="other", inputs=(moved,))))


def test_a_compiler_without_errors_to_show_still_gives_its_last_words() -> None:
    with pytest.raises(LibraryError, match="sh failed with exit code 3:\n  gone"):
        Toolchain("any", ("sh", "-c", "echo gone >&2; exit 3")).link_shared([], Path("/tmp/none.so"), ["f"])
