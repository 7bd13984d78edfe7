"""Every mistake: one clear message, exit code 2, no traceback, nothing written, nothing heavy imported."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.command_line import ROOT, Outcome, X, bitloom, environment, model
from tests.onnx_models import make_model, node, save

LETTERS = ROOT / "examples" / "letters"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a good model, good calibration data, and an output folder that holds something."""
    model(tmp_path)
    np.savez(tmp_path / "c.npz", x=X)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(folder: Path, *arguments: str | Path) -> Outcome:
    """Runs a command that must fail, and holds it to what every failure keeps."""
    before = contents(folder)
    outcome = bitloom(*arguments, cwd=folder)
    assert outcome.code == 2, outcome
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("error: ") == 1, outcome.stderr
    assert contents(folder) == before
    return outcome


def compile_refused(folder: Path, path: str | Path = "m.onnx", *options: str | Path) -> Outcome:
    return refused(folder, "compile", path, "-c", "c.npz", "-q", *options)


def test_not_a_protobuf(work: Path) -> None:
    (work / "m.onnx").write_text("I am a poem, not a model.\n")
    outcome = compile_refused(work)
    assert outcome.stderr.startswith("error: m.onnx: not an ONNX model: the file is not a protobuf")
    assert "hint: export the model to ONNX" in outcome.stderr
    assert not outcome.heavy


def test_truncated_file(work: Path) -> None:
    (work / "m.onnx").write_bytes((LETTERS / "letters.onnx").read_bytes()[:1000])
    outcome = compile_refused(work)
    assert "m.onnx: truncated ONNX model: the file ends after 1000 bytes" in outcome.stderr
    assert not outcome.heavy


def test_missing_file(work: Path) -> None:
    outcome = compile_refused(work, "nowhere.onnx")
    assert outcome.stderr == "error: nowhere.onnx: no such file\n"
    assert not outcome.heavy


def test_missing_external_data(work: Path) -> None:
    proto = onnx.load(work / "m.onnx")
    onnx.save_model(proto, work / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (work / "w.bin").unlink()
    outcome = compile_refused(work)
    assert outcome.stderr == (
        'error: m.onnx: external data is missing: w.bin (tensor "w")\n'
        "hint: put the data file beside the model\n"
    )
    assert outcome.heavy <= {"onnx"}


def test_unsupported_operators_are_listed_all_at_once(work: Path) -> None:
    nodes = [
        node("Det", "x", "a", name="first/Det"),
        node("Relu", "x", "b"),
        node("Frob", "b", "z", name="second/Frob", domain="my.ops"),
    ]
    save(make_model(nodes, {"x": [4, 4]}, ["a", "z"], domains=["my.ops"]), work)
    outcome = compile_refused(work)
    assert "error: m.onnx: 2 nodes cannot be compiled:" in outcome.stderr
    assert 'node "first/Det" (Det): this operator is not supported' in outcome.stderr
    assert (
        'node "second/Frob" (my.ops.Frob): operators of the domain "my.ops" are not supported'
        in outcome.stderr
    )
    assert outcome.heavy <= {"onnx"}


def test_dynamic_shape_without_an_option(work: Path) -> None:
    save(make_model([node("Relu", "x", "z")], {"x": ["batch", 4]}, ["z"]), work)
    outcome = compile_refused(work)
    assert "the shapes of 1 of its inputs are not fixed: x [batch,4]" in outcome.stderr
    assert "hint: fix them: --shape x=1,4\n" in outcome.stderr
    assert outcome.heavy <= {"onnx"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": X}, 'no input is called "y", and nothing is given for "x"'),
        ({"x": X.reshape(2, 6)}, 'input "x" wants the shape [1,4], not [2,6]'),
        ({"x": np.where(X > 0.9, np.nan, X)}, 'input "x", sample 2: 1 of 4 numbers are not finite (1 NaN'),
        ({"x": np.ones((3, 4), np.int32)}, 'input "x" wants float32, not int32'),
        ({"x": X[:0]}, "there are no samples"),
    ],
    ids=["name", "shape", "nan", "type", "empty"],
)
def test_wrong_calibration(work: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(
        work / "c.npz",
        **{name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in arrays.items()},
    )
    outcome = compile_refused(work)
    assert f"error: calibration c.npz: {message}" in outcome.stderr
    assert outcome.heavy <= {"onnx"}


def test_calibration_that_is_no_archive(work: Path) -> None:
    (work / "c.npz").write_text("1 2 3")
    assert "error: calibration c.npz: not an .npz file of arrays" in compile_refused(work).stderr


def test_missing_calibration_shows_how_to_write_it(work: Path) -> None:
    outcome = refused(work, "compile", "m.onnx")
    assert "error: calibration data is needed" in outcome.stderr
    assert 'numpy.savez("samples.npz", input=samples)' in outcome.stderr
    assert not outcome.heavy
    assert "calibration gone.npz: no such file" in refused(work, "compile", "m.onnx", "-c", "gone.npz").stderr


def test_output_below_a_file(work: Path) -> None:
    outcome = compile_refused(work, "m.onnx", "-o", "c.npz/out")
    assert "error: the output folder c.npz/out cannot be made" in outcome.stderr
    assert not outcome.heavy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(work: Path) -> None:
    (work / "out").chmod(0o500)
    outcome = compile_refused(work)
    (work / "out").chmod(0o700)
    assert "error: the output folder out cannot be written: no permission" in outcome.stderr


def test_unknown_target_lists_the_known(work: Path) -> None:
    outcome = compile_refused(work, "m.onnx", "-t", "abacus")
    assert outcome.stderr.startswith('error: unknown target "abacus"\nhint: known targets: host, cpu/')
    assert not outcome.heavy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--weights", "int3"), 'unknown type of weights "int3"\nhint: known: int8, int4, int2, binary'),
        (("--activations", "int4"), 'unknown type of activations "int4"\nhint: known: int8, int16'),
        (("--observer", "psychic"), 'unknown observer "psychic"\nhint: known: '),
        (("--observer-option", "depth=3"), 'observer "minmax" has no option "depth"'),
        (("--observer-option", "depth"), '--observer-option wants NAME=VALUE, not "depth"'),
        (("--layer-weights", "fc=int3"), 'unknown type of weights "int3"'),
        (("--layer-weights", "fd=int4"), 'no layer with weights is called "fd"\nhint: 1 layers have'),
        (("--weight-scales", "row"), 'unknown scales of weights "row"\nhint: known: channel, tensor'),
        (("--budget", "speed<=1"), 'budget "speed<=1": unknown measure "speed"'),
        (("--shape", "x=1,four"), '--shape x: "1,four" is not a list of integers'),
        (("--shape", "x=1,5"), "the model fixes axis 1 of x [1,4] to 4, but the given shape is [1,5]"),
        (("--shape", "y=1,4"), 'a shape is given for "y", which is not an input'),
        (("--name", "…"), '"…" gives no C identifier'),
    ],
)
def test_wrong_options(work: Path, options: tuple[str, ...], message: str) -> None:
    outcome = compile_refused(work, "m.onnx", *options)
    assert message in outcome.stderr
    assert outcome.heavy <= {"onnx"}


def test_inspect_lists_the_passes(work: Path) -> None:
    outcome = refused(work, "inspect", "m.onnx", "--after", "magic")
    assert 'error: unknown pass "magic"\nhint: passes in order: import, fold-constants, ' in outcome.stderr
    assert "needs calibration data" in refused(work, "inspect", "m.onnx", "--after", "quantize").stderr


@pytest.mark.parametrize("command", [("run", "-i", "c.npz"), ("verify",), ("inspect",)], ids=lambda c: c[0])
def test_a_folder_without_a_library(work: Path, command: tuple[str, ...]) -> None:
    outcome = refused(work, command[0], "out", *command[1:])
    assert "error: out " in outcome.stderr
    assert not outcome.heavy


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library in lib/, what it was made from, and a filled cache."""
    folder = tmp_path_factory.mktemp("compiled")
    model(folder)
    np.savez(folder / "c.npz", x=X)
    outcome = bitloom(
        "compile", "m.onnx", "-c", "c.npz", "-o", "lib", "-q", cwd=folder, cache=folder / "cache"
    )
    assert outcome.code == 0, outcome.stderr
    return folder


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": X}, "no input is called y, and nothing is given for x\nhint: inputs: x [1,4] float32"),
        ({"x": X[:, :3]}, 'input "x" has the shape [3,3], expected [1,4]'),
        ({"x": X.astype(np.int64)}, 'input "x" is int64'),
    ],
    ids=["name", "shape", "type"],
)
def test_wrong_inputs(compiled: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(compiled / "x.npz", **arrays)
    assert f"error: x.npz: {message}" in refused(compiled, "run", "lib", "-i", "x.npz").stderr
    assert f"error: x.npz: {message}" in refused(compiled, "verify", "lib", "-i", "x.npz").stderr


def test_a_library_that_differs_ends_with_1(compiled: Path, tmp_path: Path) -> None:
    """The graph of one model beside the library of another."""
    other = tmp_path / "other"
    other.mkdir()
    model(other, factor=-1.0)
    arguments = ("-c", compiled / "c.npz", "-o", tmp_path / "lib", "-q")
    assert bitloom("compile", other / "m.onnx", *arguments, cwd=other, cache=compiled / "cache").code == 0
    assert bitloom("verify", tmp_path / "lib", cwd=other).code == 0
    shutil.copy(compiled / "lib" / "m.ir.gz", tmp_path / "lib")
    outcome = bitloom("verify", tmp_path / "lib", cwd=other)
    assert outcome.code == 1
    assert outcome.stdout.startswith("DIFFERENT: sample 0: ")
    assert 'layer "fc"' in outcome.stdout


def test_a_full_disk_leaves_nothing(compiled: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; the library comes from the cache."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    arguments = ("compile", "m.onnx", "-c", "c.npz", "-o", tmp_path / "out", "-q")
    outcome = bitloom(*arguments, cwd=compiled, cache=compiled / "cache", before=limit)
    assert outcome.code == 2
    assert outcome.stderr == f"error: cannot write the library to {tmp_path / 'out'}: File too large\n"
    assert not contents(tmp_path)
    assert "tvm" not in outcome.heavy


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_leaves_nothing(compiled: Path, tiny_disk: Path) -> None:
    arguments = ("compile", "m.onnx", "-c", "c.npz", "-o", tiny_disk / "out", "-q")
    outcome = bitloom(*arguments, cwd=compiled, cache=compiled / "cache")
    assert outcome.code == 2
    assert (
        outcome.stderr == f"error: cannot write the library to {tiny_disk / 'out'}: No space left on device\n"
    )
    assert not contents(tiny_disk)


def test_interrupted_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bitloom.cli", "compile", LETTERS / "letters.onnx", "--no-cache"]
    command += ["-c", LETTERS / "calibration.npz", "-o", tmp_path / "out"]
    process = subprocess.Popen(
        command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "build kernels" in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to all processes of the terminal
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert rest.splitlines()[-1] == "interrupted; nothing was written"
    assert "Traceback" not in rest
    assert not (tmp_path / "out").exists()


def test_help_and_wrong_usage_import_nothing_heavy(tmp_path: Path) -> None:
    for arguments in (
        ["--help"],
        ["--version"],
        *([c, "--help"] for c in ("compile", "run", "verify", "inspect")),
    ):
        outcome = bitloom(*arguments, cwd=tmp_path)
        assert outcome.code == 0
        assert outcome.stdout
        assert not outcome.heavy
    outcome = bitloom("compile", "--wieghts", "int4", cwd=tmp_path)
    assert outcome.code == 2
    assert "--wieghts" in outcome.stderr
    assert not outcome.heavy
