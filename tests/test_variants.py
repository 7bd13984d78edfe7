"""A library of several variants: all compute the same; a CPU gets the best that it can run, or a reason."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bitloom
from bitloom.library_files import manifest_path_of, read_manifest
from bitloom.loading import LoadError, load
from compiler.driver import QuantizeOptions, import_float, quantize_imported
from compiler.lowering.program import lower_program, lower_variants
from compiler.quantize.calibration_run import read_calibration
from schedules.machines import cpu_models, host_machine
from targets import target_named
from targets.library.description import Arena, CpuFeature, LibraryDescription, Variant
from targets.library.emit import emit_library
from targets.library.toolchain import Toolchain
from tests.command_line import bitloom as command
from tests.library_kernels import SHAPE, description, kernel_object
from tests.loopback_sshd import loopback_sshd

LETTERS = Path(__file__).parents[1] / "examples" / "letters"
CORES = ("cortex-a53", "cortex-a76", "neoverse-n2")
EMULATED = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
_ARM = "aarch64" in Toolchain.host().triple
ALIENS = (CpuFeature.AVX2, CpuFeature.AVX512F) if _ARM else (CpuFeature.ASIMD, CpuFeature.ASIMDDP)
X = np.zeros(SHAPE, np.float32)


def library(folder: Path, *variants: Variant) -> Path:
    described = LibraryDescription("tiny", description().constants, variants)
    emit_library(described, [kernel_object(folder)], folder / "out", Toolchain.host())
    return folder / "out"


def named(name: str, features: tuple[CpuFeature, ...] = (), models: tuple[int, ...] = ()) -> Variant:
    return replace(description().variants[0], name=name, cpu_features=features, models=models)


def test_a_cpu_gets_the_most_demanding_variant_that_it_can_run(tmp_path: Path) -> None:
    out = library(tmp_path, named("rare", ALIENS), named("odd", ALIENS[:1]), named("plain"))
    with load(out) as model:
        assert model.variant == "plain"
    with load(out, variant="plain") as model:
        assert model.variant == "plain" and len(model.steps) == 4
    holds = "tiny holds rare and odd and plain"
    with pytest.raises(
        LoadError, match=f"^tiny: {holds}; rare needs the CPU feature {ALIENS[0].value}, which"
    ):
        load(out, variant="rare")
    with pytest.raises(LoadError, match='tiny has no variant "best"; it holds rare, odd, plain'):
        load(out, variant="best")


def test_among_equals_goes_what_is_tuned_for_this_cpu(tmp_path: Path) -> None:
    here = cpu_models(host_machine())
    if not here:
        pytest.skip("no schedule is tuned for this CPU")
    for position in range(3):
        variants = [named(f"v{i}", (), here if i == position else (1,)) for i in range(3)]
        folder = tmp_path / str(position)
        folder.mkdir()
        with load(library(folder, *variants)) as model:
            assert model.variant == f"v{position}"


def test_a_cpu_that_has_none_hears_of_the_least_demanding(tmp_path: Path) -> None:
    out = library(tmp_path, named("rare", ALIENS), named("odd", ALIENS[:1]))
    expected = (
        f"tiny: tiny holds rare and odd; odd needs the CPU feature {ALIENS[0].value}, which this CPU does"
    )
    with pytest.raises(LoadError, match=expected):
        load(out)


def test_a_context_has_room_for_the_largest_variant_and_reads_its_own(tmp_path: Path) -> None:
    small = named("small")
    view = small.steps[1].result
    assert view is not None
    far = Arena(1 << 20)
    moved = replace(
        small.steps[1],
        operands=(*small.steps[1].operands[:2], far, *small.steps[1].operands[3:]),
        result=replace(view, place=far),
    )
    last = [replace(step, operands=(far, *step.operands[1:])) for step in small.steps[2:]]
    edge = small.outputs[0].edge
    assert edge is not None
    output = replace(small.outputs[0], edge=replace(edge, codes=replace(edge.codes, place=far)))
    large = replace(
        small,
        name="large",
        steps=(small.steps[0], moved, *last),
        outputs=(output, small.outputs[1]),
        arena_bytes=(1 << 20) + small.arena_bytes,
    )
    out = library(tmp_path, small, large)
    x = np.random.default_rng(0).normal(0, 30, SHAPE).astype(np.float32)
    with load(out, variant="small") as one, load(out, variant="large") as other:
        for (step, expected), (_, found) in zip(one.layers(x), other.layers(x), strict=True):
            np.testing.assert_array_equal(expected, found, step.label)
        codes = np.full(SHAPE, 7, np.int8)
        for expected, found in zip(one.run(None, {"x": codes}), other.run(None, {"x": codes}), strict=True):
            np.testing.assert_array_equal(expected, found)


def test_a_board_says_which_variant_it_takes(tmp_path: Path) -> None:
    out = library(tmp_path, named("rare", ALIENS), named("plain"))
    with loopback_sshd(tmp_path) as board:
        with load(out, 1, board.runner) as model:
            assert model.variant == "plain"
            np.testing.assert_array_equal(model.run(None, {"x": X})[0], load(out).run(None, {"x": X})[0])
        with (
            load(out, 1, board.runner, "rare") as model,
            pytest.raises(LoadError, match="rare needs the CPU"),
        ):
            model.run(None, {"x": X})


def test_names_may_lack_what_the_target_says() -> None:
    target = target_named("arm/cortex-a53@musl", ["cortex-a53", "cortex-a76", "arm/neoverse-n2@musl"])
    assert target.name == "arm/cortex-a53@musl,arm/cortex-a76@musl,arm/neoverse-n2@musl"
    assert list(target.planners) == list(CORES)
    assert list(target_named("cpu/avx2", ["avx512vnni"]).planners) == ["avx2", "avx512vnni"]


@pytest.mark.parametrize(
    ("target", "variant", "message"),
    [
        ("arm/cortex-a53", "cortex-a99", 'unknown target "cortex-a99"'),
        (
            "arm/cortex-a53",
            "avx2",
            '"cpu/avx2" cannot be variants of one library: cortex_a53, .*haswell|avx2',
        ),
        ("arm/cortex-a53@musl", "arm/cortex-a76@glibc", "cannot be variants .*musl and .*gnu"),
    ],
)
def test_variants_of_different_systems_are_refused(target: str, variant: str, message: str) -> None:
    with pytest.raises(bitloom.BitloomError, match=message):
        target_named(target, [variant])


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("letters") / "out"
    calibration = LETTERS / "calibration.npz"
    bitloom.compile(
        LETTERS / "letters.onnx",
        calibration=calibration,
        target="arm/cortex-a53",
        variants=CORES,
        output=out,
    )
    return out


@EMULATED
@pytest.mark.parametrize(
    ("core", "runs"), [("cortex-a53", CORES[:1]), ("cortex-a76", CORES[:2]), ("max", CORES)]
)
def test_every_variant_is_exact_where_it_runs_and_refused_elsewhere(
    letters: Path, core: str, runs: tuple[str, ...]
) -> None:
    assert bitloom.verify(letters, samples=1, runner=f"qemu:{core}").variant == runs[-1]
    for variant in CORES:
        if variant in runs:
            result = bitloom.verify(letters, samples=1, runner=f"qemu:{core}", variant=variant)
            assert result.is_exact and result.variant == variant, result.difference
        else:
            with pytest.raises(LoadError, match=rf"letters holds .*; {variant} needs the CPU feature"):
                bitloom.verify(letters, samples=1, runner=f"qemu:{core}", variant=variant)


@EMULATED
def test_a_core_gets_the_variant_that_is_tuned_for_it(tmp_path: Path) -> None:
    """A76 and N1 have the same features: the register that names the core tells them apart."""
    bitloom.compile(
        LETTERS / "letters.onnx",
        calibration=LETTERS / "calibration.npz",
        target="arm/cortex-a76",
        variants=["cortex-a53", "neoverse-n1"],
        output=tmp_path / "out",
    )
    for core in ("cortex-a76", "neoverse-n1", "cortex-a53"):
        with load(tmp_path / "out", 1, f"qemu:{core}") as model:
            assert model.variant == core


def test_constants_that_pack_equally_are_stored_once() -> None:
    imported = import_float(LETTERS / "letters.onnx")
    samples = read_calibration(LETTERS / "calibration.npz", imported.graph)[:2]
    graph = quantize_imported(imported, samples, QuantizeOptions()).graph
    planners = target_named("arm/cortex-a53", ["cortex-a72", "cortex-a76"]).planners
    alone = {name: lower_program(graph, plan).constants.size for name, plan in planners.items()}
    together = lower_variants(graph, planners)
    blobs = {program.constants for program in together.values()}
    assert len(blobs) == 1
    # The kernels of A53 and A72 differ in tiles at most; parameters and tables are alike everywhere.
    assert max(alone.values()) < blobs.pop().size < alone["cortex-a72"] + alone["cortex-a76"]
    assert len({program.memory.arena_bytes for program in together.values()}) == 1


def test_the_manifest_lists_the_most_demanding_variant_first(letters: Path) -> None:
    manifest = read_manifest(manifest_path_of(letters))
    assert [record["name"] for record in manifest["variants"]] == list(reversed(CORES))


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_nothing_in_a_library_runs_before_it_is_called(letters: Path) -> None:
    """No constructors and no indirect functions, whose resolvers might be compiled for the wrong core."""
    for file in ("libletters.so", "libletters.a"):
        command = ["readelf", "-W", "-S", "-s", "-r", str(letters / file)]
        read = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert not re.search(r"IFUNC|IRELATIV", read)
        sizes = re.findall(r"\.(?:pre)?(?:init_array|ctors)\S* +\w+ +\w+ \w+ (\w+)", read)
        assert all(int(size, 16) == 0 for size in sizes), read


@EMULATED
def test_the_command_line_names_variants(letters: Path, tmp_path: Path) -> None:
    shown = command("inspect", letters, cwd=tmp_path).stdout
    assert "variant neoverse-n2: needs asimd, asimddp, asimdrdm, i8mm\nvariant cortex-a76: needs" in shown
    options = ("--runner", "qemu:max", "--samples", "1")
    verdict = command("verify", letters, *options, "--variant", "cortex-a53", cwd=tmp_path).stdout
    assert "variant cortex-a53; not run: neoverse-n2, cortex-a76 (--variant NAME)" in verdict
    told = json.loads(command("verify", letters, *options, "--json", cwd=tmp_path).stdout)
    assert told["variant"] == "neoverse-n2" and told["exact"]
    refused = command("verify", letters, "--variant", "cortex-a72", cwd=tmp_path)
    assert refused.code == 2
    assert (
        'letters has no variant "cortex-a72"; it holds neoverse-n2, cortex-a76, cortex-a53' in refused.stderr
    )


def test_x86_variants_hold_codes_in_their_own_way(tmp_path: Path) -> None:
    """AVX2 keeps int8 in the arena, VNNI uint8: each variant's ports move codes to where it wants them."""
    if _ARM:
        pytest.skip("needs an x86 computer")
    out = tmp_path / "out"
    calibration = LETTERS / "calibration.npz"
    bitloom.compile(
        LETTERS / "letters.onnx",
        calibration=calibration,
        target="cpu/x86_64",
        variants=["avx2", "avx512vnni"],
        output=out,
    )
    verified = 0
    for variant in ("x86_64", "avx2", "avx512vnni"):
        try:
            result = bitloom.verify(out, samples=2, variant=variant)
        except LoadError as refused:
            assert "needs the CPU feature" in str(refused)
            continue
        assert result.is_exact and result.variant == variant
        verified += 1
    assert verified >= 1
