"""Networks of signs, from the ONNX file to the library: exact thresholds, and bits between the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import bitloom
from bitloom.verification import read_graph
from compiler.interpreter import run
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.ir.parser import parse_graph
from compiler.ir.verifier import VerificationError, verify
from compiler.lowering.program import lower_variants
from compiler.numerics.element import Array, ElementType
from compiler.ops import OPS
from compiler.passes.base import Notes
from compiler.passes.requantize import FuseRequantize
from targets import target_named

B1, I8 = ElementType.B1, ElementType.I8
SIZE = 8
BITS = "b1<scale=1.0, zero_point=0>"


class Network:
    """An ONNX model of signs, convolutions by -1 and +1, and batch norms."""

    def __init__(self, channels: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.channels, self.value = channels, "x"

    def add(self, op: str, name: str, *constants: Array, **attributes: object) -> None:
        names = [f"{name}.{i}" for i in range(len(constants))]
        self.constants |= {n: c.astype(np.float32) for n, c in zip(names, constants, strict=True)}
        self.nodes.append(helper.make_node(op, [self.value, *names], [name], name=name, **attributes))
        self.value = name

    def convolution(self, name: str, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        weight = self.rng.choice([-1.0, 1.0], (outputs, self.channels // groups, kernel, kernel))
        pads, strides = [kernel // 2] * 4, [stride, stride]
        self.add("Conv", f"{name}.conv", weight, pads=pads, strides=strides, group=groups)
        # Thresholds in the middle of the sums, between two integers; a third of the scales is negative.
        scale = self.rng.uniform(0.5, 2, outputs) * self.rng.choice([1, 1, -1], outputs)
        middle = np.floor(self.rng.normal(0, 3, outputs)) + 0.5
        zeros, ones = np.zeros(outputs), np.ones(outputs)
        self.add("BatchNormalization", f"{name}.norm", scale, zeros, middle, ones, epsilon=0.0)
        self.channels = outputs

    def sign(self, name: str) -> None:
        self.add("Sign", name)

    def save(self, path: Path, inputs: tuple[int, ...]) -> None:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)
        y = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, None)
        initializers = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "signs", [x], [y], initializers)
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


def every_value(path: Path, x: Array) -> dict[str, Array]:
    """All intermediate tensors of the float model."""
    model = onnx.load(path)
    names = [n.output[0] for n in model.graph.node]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return dict(zip(names, session.run(None, {"x": x}), strict=True))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and its library: every layer but the last gives bits."""
    folder = tmp_path_factory.mktemp("signs")
    network = Network(3)
    network.sign("start")
    for name, outputs, kernel, stride in (("a", 32, 3, 1), ("b", 37, 3, 2), ("c", 64, 1, 1)):
        network.convolution(name, outputs, kernel, stride)
        network.sign(name)
    network.convolution("last", 8, 3)
    network.save(folder / "signs.onnx", (1, 3, SIZE, SIZE))
    samples = np.random.default_rng(1).normal(size=(8, 3, SIZE, SIZE)).astype(np.float32)
    bitloom.compile(folder / "signs.onnx", calibration=samples, output=folder / "out")
    return folder / "signs.onnx", folder / "out"


def test_the_library_is_exact_layer_by_layer(compiled: tuple[Path, Path]) -> None:
    found = bitloom.verify(compiled[1], samples=4)
    assert found.difference is None, str(found.difference)


def test_between_layers_there_are_bits_alone(compiled: tuple[Path, Path]) -> None:
    graph = read_graph(compiled[1])
    assert [n.op.mnemonic for n in graph.activations() if n.op.mnemonic != "transpose"] == [
        *("quantize", "requantize"),
        *["conv2d"] * 4,
        "dequantize",
    ]
    convolutions = [n for n in graph.nodes if n.op.mnemonic == "conv2d"]
    assert [n.output.type.element for n in convolutions] == [B1, B1, B1, I8]
    # The first reads bytes: its channels are moved to the last axis first.
    assert all(v.type.element is B1 for n in convolutions[1:] for v in n.inputs[:2])
    (program,) = lower_variants(graph, target_named("host").planners).values()
    sizes = {v.name: program.places[v].buffer.size for n in convolutions for v in n.outputs}
    assert list(sizes.values())[:3] == [64 * 4, 16 * 5, 16 * 8]


def test_every_sign_is_that_of_the_float_model(compiled: tuple[Path, Path]) -> None:
    """Batch norms become thresholds without an error, and padded taps count as zero."""
    model, library = compiled
    graph = read_graph(library)
    x = np.random.default_rng(5).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    expected, seen = every_value(model, x), dict[str, Array]()
    run(graph, {"x": x}, lambda value, array: seen.update({value.name: array}))
    for node in (n for n in graph.nodes if n.op.mnemonic == "conv2d" and n.output.type.element is B1):
        (name,) = {n.split(".")[0] for n in node.location.names}
        np.testing.assert_array_equal(seen[node.output.name].transpose(0, 3, 1, 2), expected[name])
    # The last layer's bias is rounded to the unit of its sums, the sum to the unit of its codes.
    last = next(n for n in graph.nodes if "last.conv" in n.location.names and n.op.mnemonic == "conv2d")
    units = (max(last.inputs[2].type.codes.quantization.scales), last.output.type.codes.scale)
    error = np.abs(seen[graph.outputs[0].name] - expected["last.norm"])
    assert error.max() <= 0.5001 * sum(units)


def test_what_cannot_read_bits_gets_bytes(tmp_path: Path) -> None:
    """Grouped convolutions, weights of many magnitudes, pooling, sums: exact all the same."""
    network = Network(8, seed=3)
    network.sign("start")
    network.convolution("grouped", 8, 3, groups=2)
    network.sign("s1")
    weight = network.rng.normal(size=(16, 8, 1, 1))
    network.add("Conv", "real", weight)
    network.channels = 16
    network.sign("s2")
    network.add("MaxPool", "pool", kernel_shape=[2, 2], strides=[2, 2])
    network.convolution("binary", 16, 1)
    network.sign("s3")
    network.add("Add", "sum", np.full((1, 16, 1, 1), 0.25))
    network.save(tmp_path / "mixed.onnx", (1, 8, SIZE, SIZE))
    samples = np.random.default_rng(1).normal(size=(8, 8, SIZE, SIZE)).astype(np.float32)
    bitloom.compile(tmp_path / "mixed.onnx", calibration=samples, output=tmp_path / "out")
    found = bitloom.verify(tmp_path / "out", samples=3)
    assert found.difference is None, str(found.difference)
    weights = {n.location.names[0]: n.inputs[1].type.element for n in read_graph(tmp_path / "out").nodes
               if n.op.mnemonic == "conv2d"}  # fmt: skip
    assert weights == {"grouped.conv": I8, "real": I8, "binary.conv": I8}


def test_a_note_says_what_a_sign_makes_of_zero(tmp_path: Path) -> None:
    network = Network(8)
    network.sign("start")
    network.save(tmp_path / "zero.onnx", (1, 8))
    samples = np.zeros((2, 8), np.float32)
    artifact = bitloom.compile(tmp_path / "zero.onnx", calibration=samples, output=tmp_path / "out")
    assert ["0 counts as positive" in note["text"] for note in artifact.manifest["notes"]] == [True]
    np.testing.assert_array_equal(bitloom.load(artifact.path)(samples[:1]), np.ones((1, 8)))


def test_a_flat_layer_reads_the_same_bits(tmp_path: Path) -> None:
    network = Network(64, seed=4)
    network.sign("start")
    network.add("Flatten", "flat")
    network.add(
        "Gemm", "fc", network.rng.choice([-0.5, 0.5], (10, 64)), network.rng.normal(size=10), transB=1
    )
    network.save(tmp_path / "flat.onnx", (1, 64))
    samples = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)
    bitloom.compile(tmp_path / "flat.onnx", calibration=samples, output=tmp_path / "out")
    assert bitloom.verify(tmp_path / "out").difference is None
    (dense,) = [n for n in read_graph(tmp_path / "out").nodes if n.op.mnemonic == "dense"]
    assert [v.type.element for v in dense.inputs[:2]] == [B1, B1]


def parsed(text: str) -> Graph:
    return parse_graph(text, OPS)


CHAIN = """graph "g" {{
  input %x: i8[1,16]<scale=0.5, zero_point=3>
  %a = requantize(%x) {{to = {first}, clamp = none}} : {first_type} @("a")
  %b = requantize(%a) {{to = {second}, clamp = none}} : {second_type} @("b")
  %y = dequantize(%b) : f32[1,16] @("y")
  output %y
}}"""


def chain(first: str, second: str) -> Graph:
    types = {k: v.replace("<", "[1,16]<") for k, v in (("first_type", first), ("second_type", second))}
    return parsed(CHAIN.format(first=first, second=second, **types))


def test_a_sign_once_taken_stays() -> None:
    codes = "i8<scale=0.25, zero_point=0>"
    assert FuseRequantize().run(chain(BITS, codes), Notes()) == 0
    joined = chain(codes, BITS)
    assert FuseRequantize().run(joined, Notes()) == 1
    (node,) = [n for n in joined.nodes if n.op.mnemonic == "requantize"]
    assert node.output.type.element is B1


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        ("add(%a, %a) {clamp = none, to = i8<scale=0.5, zero_point=0>}", "add reads no b1 codes"),
        ("transpose(%a) {permutation = (1, 0)}", "transpose reads no b1 codes"),
        ("reshape(%a) {shape = (3, 8)}", "bytes break"),
    ],
)
def test_the_verifier_says_what_bits_cannot_do(operator: str, reason: str) -> None:
    element, shape = ("i8<scale=0.5, zero_point=0>", "[2,12]")
    if "add" not in operator:
        element = BITS
        shape = "[12,2]" if "transpose" in operator else "[3,8]"
    type_ = element.replace("<", f"{shape}<")
    text = f"""graph "g" {{
  input %x: i8[2,12]<scale=0.5, zero_point=3>
  %a = requantize(%x) {{to = {BITS}, clamp = none}} : b1[2,12]<scale=1.0, zero_point=0> @("a")
  %b = {operator} : {type_} @("b")
  output %b
}}"""
    with pytest.raises((VerificationError, BitloomError), match=reason):
        verify(parsed(text))


def test_ports_are_never_packed() -> None:
    text = f"""graph "g" {{
  input %x: i8[2,12]<scale=0.5, zero_point=3>
  %a = requantize(%x) {{to = {BITS}, clamp = none}} : b1[2,12]<scale=1.0, zero_point=0> @("a")
  output %a
}}"""
    with pytest.raises(ValueError, match="dequantize them"):
        lower_variants(parsed(text), target_named("host").planners)
