"""The simulator beside the hardware description in Verilator: the same memories, nearly the same cycles."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler.ir.op import Op
from compiler.ir.types import TensorType, quantized
from compiler.numerics.convolve import Window, integer_convolve
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import requantize
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.contraction import bias_type
from compiler.ops.convolution import Conv2D
from compiler.ops.matmul import MatMul
from compiler.ops.resize import ResizeBilinear
from sim.config import PRESETS, NpuConfig, config_from, load_config
from sim.parameters import unpack_parameters
from sim.programs.random import KINDS, RandomProgram, random_program
from sim.programs.schedules import KERNEL, PAD, layer_program, schedules
from sim.programs.writer import OUTPUTS_AT, PARAMETERS_AT
from sim.rtl_model import RtlError, build, header, run_programs
from sim.simulate import simulate
from sim.validate import (
    LAYER,
    MAX_BAR,
    MEAN_BAR,
    TAU_BAR,
    Comparison,
    compare,
    kendall_tau,
    layer_cases,
    main,
)
from targets.streams.lowering import lower_to_streams
from targets.streams.model import StreamCall, model_of
from tests.npu_core import CONFIG
from tests.npu_networks import graph_of
from tests.op_cases import OpCase

needs_verilator = pytest.mark.skipif(
    shutil.which("verilator") is None or shutil.which("g++") is None,
    reason="no Verilator and g++: apt-get install verilator g++",
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Verilator makes, once for each configuration."""
    return tmp_path_factory.mktemp("npu_rtl")


def _hold(found: list[Comparison]) -> None:
    errors = np.abs([c.error for c in found])
    assert not [c for c in found if c.different]
    assert errors.mean() <= MEAN_BAR and errors.max() <= MAX_BAR


@needs_verilator
def test_cycles_and_memories_of_all_kinds_of_work(folder: Path) -> None:
    _hold(compare(CONFIG, [random_program(k, 70_000 + s, CONFIG) for k in KINDS for s in range(4)], folder))


def _codes(shape: tuple[int, ...], element: ElementType, zero: int) -> tuple[TensorType, Array]:
    """A type of these zero points; the contents do not matter here."""
    type_ = quantized(shape, QuantizedType(element, Quantization((0.02,), zero)))
    return type_, np.ones(shape, element.dtype)


def _layer(name: str, op: Op, *operands: tuple[TensorType, Array], constants: int = 0) -> RandomProgram:
    """What the compiler writes for one operator, whose last operands are constant."""
    types, arrays = zip(*operands, strict=True)
    last = range(len(operands) - constants, len(operands))
    graph, _ = graph_of(OpCase(op, types, arrays, frozenset(last)))
    model = model_of(lower_to_streams(graph, CONFIG), "one")
    (step,) = model.steps
    assert isinstance(step, StreamCall)
    sram = np.random.default_rng(0).integers(0, 256, 1 << 15, np.uint8)
    return RandomProgram(name, step.program, sram, model.constants)


@needs_verilator
def test_layers_of_two_activations_and_of_bits(folder: Path) -> None:
    """Zero points of weights at both ends, transposed operands, sums of 32 bits, packed bits."""
    i8, i16, b1 = ElementType.I8, ElementType.I16, ElementType.B1
    to = QuantizedType(i8, Quantization((0.5,), -3))
    low, high = _codes((2, 30, 20), i8, -128), _codes((2, 20, 37), i8, 127)
    weight = quantized((21, 3, 3, 40), QuantizedType(b1, Quantization((0.1,))))
    signs = _codes((1, 6, 7, 40), b1, 0)
    codes = np.random.default_rng(1).choice([-1, 1], weight.shape).astype(np.int8)
    bias = bias_type(signs[0], weight), np.arange(-10, 11, dtype=np.int32)
    ones, places = QuantizedType(b1, Quantization((1.0,))), tuple(n / 4 for n in range(13))
    cases = [
        _layer("matrices", MatMul(to=to), low, high),
        _layer("transposed", MatMul(True, True, to=to), _codes((20, 30), i16, 5), _codes((37, 20), i8, -128)),
        _layer("resize", ResizeBilinear(places, places), _codes((1, 5, 4, 19), i8, 0)),
        _layer("bits", Conv2D(pads=(1, 1, 1, 1), to=ones), signs, (weight, codes), bias, constants=2),
    ]
    _hold(compare(CONFIG, cases, folder))


@needs_verilator
@pytest.mark.parametrize("count", [1, 3, 16])
def test_transfers_one_behind_the_other(folder: Path, count: int) -> None:
    """Long latencies, many requests: what one engine has on its way weighs most on npu-512."""
    preset = load_config("npu-512")
    config = replace(preset, dma=replace(preset.dma, outstanding_instructions=count))
    _hold(compare(config, [random_program("transfers", 70_000 + s, config) for s in range(6)], folder))


@needs_verilator
def test_the_order_of_schedules(folder: Path) -> None:
    found = compare(CONFIG, layer_cases(CONFIG, 12), folder)
    _hold(found)
    assert kendall_tau([c.simulated for c in found], [c.measured for c in found]) >= TAU_BAR


@needs_verilator
def test_a_program_that_never_halts_is_an_error(folder: Path, tmp_path: Path) -> None:
    case = random_program("pool", 0, CONFIG)
    words = case.program.streams[0].words.copy()
    words[-1, 0] = 31  # no instruction
    object.__setattr__(case.program, "streams", (type(case.program.streams[0])(words),))
    with pytest.raises(RtlError, match="did not halt"):
        run_programs(build(CONFIG, folder), [case], tmp_path)


def _odd() -> NpuConfig:
    """Nothing is as in a preset: two banks that everybody wants, short queues, ports that divide nothing."""
    table = tomllib.loads((PRESETS / "npu-128.toml").read_text())
    table |= {"name": "odd", "queue_depth": 2, "issue_cycles": 3}
    table["mac"] |= {
        "rows": 8, "columns": 4, "weight_port_bytes": 6, "accumulator_port_bits": 160, "depthwise_channels": 3
    }  # fmt: skip
    table["vec"] |= {"lanes": 4, "pool_cycles": 2}
    table["scratchpad"] |= {"activation_banks": 2, "weight_banks": 2}
    table["sram"] |= {"bytes_per_cycle": 5}
    table["dma"] |= {"scatter_elements": 1, "outstanding_instructions": 2}
    return config_from(table)


@needs_verilator
@pytest.mark.slow
def test_any_configuration_is_one_of_both(folder: Path) -> None:
    config = _odd()
    _hold(compare(config, [random_program(k, 80_000 + s, config) for k in KINDS for s in range(20)], folder))


@needs_verilator
@pytest.mark.slow
def test_all_presets_meet_the_bars(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--build", str(folder)]) == 0, capsys.readouterr().out


def test_without_verilator_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--npu", "npu-128", "--seeds", "1"]) == 2
    assert "verilator is not installed: apt-get install verilator g++" in capsys.readouterr().err


def test_the_header_says_where_fields_lie() -> None:
    text = header(CONFIG)
    for line in ("localparam int ROWS = 16;", "localparam int OP_GEMM = 11;", "`define GEMM_ACT(i) i[47:28]"):
        assert line in text.splitlines()


@pytest.mark.parametrize("preset", ["npu-128", "npu-256", "npu-512"])
def test_every_schedule_computes_the_layer(preset: str) -> None:
    """[16, 16, 16] codes by 32 filters of 3 x 3, against the convolution of numerics."""
    config = load_config(preset)
    cases = layer_cases(config, 6)
    sram, dram = cases[0].sram, cases[0].dram
    lanes = config.mac.output_lanes(8, 8)
    shape = (LAYER.outputs // lanes, KERNEL, KERNEL, LAYER.channels, lanes)
    weight = dram[: np.prod(shape)].view(np.int8).reshape(shape).transpose(0, 4, 1, 2, 3)
    weight = weight.reshape(LAYER.outputs, KERNEL, KERNEL, LAYER.channels).astype(np.int64)
    image = sram[: LAYER.size**2 * LAYER.channels].view(np.int8)
    image = image.reshape(1, LAYER.size, LAYER.size, LAYER.channels).astype(np.int64)
    window = Window((KERNEL, KERNEL), pads=(PAD,) * 4)
    bias, multiplier, shift = unpack_parameters(dram[PARAMETERS_AT:][: 9 * LAYER.outputs])
    acc = integer_convolve(image, weight, window, 1) + bias
    expected = requantize(acc, multiplier, shift, 0, -128, 127).reshape(-1)
    for case in cases:
        external = case.external(config)
        simulate(case.program, config, external)
        found = external.sram.data[OUTPUTS_AT:][: expected.size].view(np.int8)
        assert np.array_equal(found, expected), case.name


def test_schedules_fit_and_have_names_of_their_own() -> None:
    found = schedules(LAYER, CONFIG)
    assert len({s.name for s in found}) == len(found) > 50
    assert (
        layer_program(LAYER, found[0], CONFIG, np.zeros(1, np.uint8), np.zeros(1, np.uint8)).name
        == found[0].name
    )
