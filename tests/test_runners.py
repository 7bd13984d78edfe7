"""A library behind a runner gives what it gives here; what goes wrong there is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bitloom.loading import LoadError, RunError, load
from targets.library.description import (
    CpuFeature,
    DType,
    Input,
    LibraryDescription,
    Output,
    Port,
    Step,
    Variant,
)
from targets.library.emit import emit_library
from targets.library.toolchain import LibraryError, Toolchain
from targets.runners import RunnerError
from tests.library_kernels import SHAPE, Built, build, description, kernel_object
from tests.loopback_sshd import Loopback, loopback_sshd


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback_sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("tiny"))


def _folder(built: Built) -> Path:
    return built.files.manifest.parent


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_a_board_gives_what_this_computer_gives(tiny: Built, board: Loopback, dtype: type) -> None:
    x = np.random.default_rng(0).normal(0, 30, SHAPE).clip(-128, 127).astype(dtype)
    with load(_folder(tiny), 2) as here, load(_folder(tiny), 2, board.runner) as there:
        for expected, found in zip(here.run(None, {"x": x}), there.run(None, {"x": x}), strict=True):
            assert expected.dtype == found.dtype
            np.testing.assert_array_equal(expected, found)
        pairs = zip(here.layers(x), there.layers(x), strict=True)
        for (step, expected), (step_there, found) in pairs:
            assert step == step_there
            np.testing.assert_array_equal(expected, found)


def test_a_board_keeps_time_and_is_left_as_it_was(tiny: Built, board: Loopback) -> None:
    with load(_folder(tiny), 1, board.runner) as model:
        assert len(list(board.temporary.iterdir())) == 1
        seconds = model.time(np.zeros(SHAPE, np.float32), repeat=5)
        assert seconds.shape == (5,) and (seconds > 0).all() and seconds.max() < 1
    assert not list(board.temporary.iterdir())
    with pytest.raises(RunError, match="tiny is closed"):
        model(np.zeros(SHAPE, np.float32))


def test_a_board_times_each_step(tiny: Built, board: Loopback) -> None:
    x = np.zeros(SHAPE, np.float32)
    with load(_folder(tiny), 2, board.runner) as model:
        profile = model.profile(x, repeat=4)
        assert tuple(step for step, _ in profile) == model.steps
        assert all(seconds.shape == (4,) and (seconds >= 0).all() for _, seconds in profile)
        assert sum(float(seconds.sum()) for _, seconds in profile) > 0
        alone = model.profile(x, repeat=1, threads=1)
        assert [seconds.shape for _, seconds in alone] == [(1,)] * len(model.steps)


def test_a_missing_cpu_feature_is_told(tmp_path: Path, board: Loopback) -> None:
    alien = CpuFeature.AVX512_BF16 if "aarch64" in Toolchain.host().triple else CpuFeature.ASIMDDP
    refused = rf"tiny holds plain; plain needs the CPU feature {alien.value}, which this CPU does not have"
    with load(_folder(build(tmp_path, "tiny", (alien,))), 1, board.runner) as model:  # noqa: SIM117
        with pytest.raises(LoadError, match=f"tiny on ssh:.*: {refused}"):
            model(np.zeros(SHAPE, np.float32))


def test_a_signal_is_told_by_its_name(tmp_path: Path, board: Loopback) -> None:
    source = tmp_path / "ill.c"
    source.write_text(
        "#include <signal.h>\n#include <stdint.h>\n"
        "int32_t ill(const void *x, void *y, int32_t b, int32_t e)\n"
        "{ (void)x; (void)y; (void)b; (void)e; return raise(SIGILL); }\n"
    )
    toolchain = Toolchain.host()
    toolchain.compile(source, tmp_path / "ill.o")
    ports = (Port("x", DType.INT8, (1,)),)
    step = Step("ill", (Input(0), Output(0)), 1, "ill", "ill")
    emit_library(
        LibraryDescription("sick", b"", (Variant("plain", (step,), 64, ports, ports),)),
        [tmp_path / "ill.o"],
        tmp_path,
        toolchain,
    )
    with (
        load(tmp_path, 1, board.runner) as model,
        pytest.raises(RunError, match="ended by SIGILL"),
    ):
        model(np.zeros(1, np.int8))


def test_another_architecture_is_refused_at_once(tmp_path: Path, board: Loopback) -> None:
    other = "x86_64" if "aarch64" in Toolchain.host().triple else "aarch64"
    toolchain = Toolchain(f"{other}-linux-musl")
    emit_library(description(), [kernel_object(tmp_path, "tiny", toolchain)], tmp_path / "out", toolchain)
    with pytest.raises(RunnerError, match=rf"is Linux \w+; the library is for Linux {other}"):
        load(tmp_path / "out", 1, board.runner)
    assert not list(board.temporary.iterdir())


def test_a_board_that_does_not_answer_is_told(tiny: Built) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RunnerError, match=rf"cannot reach ssh:127.0.0.1:{port}: .*refused"):
        load(_folder(tiny), 1, f"ssh:127.0.0.1:{port}")


def test_missing_tools_are_told(tiny: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RunnerError, match="there is no ssh\nhint: Debian and Ubuntu: apt-get install"):
        load(_folder(tiny), 1, "ssh:board")


@pytest.mark.parametrize("name", ["qemu", "qemu:", "ssh:", "ssh:-oProxyCommand=x", "ssh:a:b", "telnet:board"])
def test_an_unknown_runner_lists_the_known(tiny: Built, name: str) -> None:
    with pytest.raises(RunnerError, match=f'unknown runner "{name}"\nhint: runners are local, qemu:CPU .*'):
        load(_folder(tiny), 1, name)


def test_a_library_without_its_archive_is_told(tmp_path: Path) -> None:
    built = build(tmp_path)
    built.files.static.unlink()
    with pytest.raises(LibraryError, match=r"there is no .*libtiny\.a, which the runner needs"):
        load(_folder(built), 1, "ssh:board")
