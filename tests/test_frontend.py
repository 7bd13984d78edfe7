"""Import of models: errors that list everything, known values, names, and equality with onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from compiler.frontend import Model, import_graph, load_model
from compiler.interpreter import run
from compiler.ir.diagnostics import BitloomError
from compiler.ir.types import f32
from compiler.ir.verifier import verify
from tests.onnx_models import assert_equals_onnxruntime, make_model, node, save

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
ZOO = os.environ.get("BITLOOM_ZOO")
ZOO_MODELS = (
    "squeezenet1_1",
    "mbv1_025_224",
    "mbv2_100_224_deq",
    "ic_resnet8",
    "kws_dscnn",
    "vww_mbv1_025",
    "mnist_cntk",
    "ultraface_rfb320",
    "ad01_autoencoder",
)


def in_memory(proto: onnx.ModelProto) -> Model:
    return Model(Path("m.onnx"), proto)


def refusal(proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]] | None = None) -> str:
    with pytest.raises(BitloomError) as caught:
        import_graph(in_memory(proto), shapes)
    return str(caught.value)


# Shapes


def dynamic() -> onnx.ModelProto:
    return make_model([node("Add", "x m", "y")], {"x": ["N", 3, 8, None], "m": ["N", 1, 1, "W"]}, ["y"])


def test_open_shapes_are_listed_with_the_remedy() -> None:
    proto = make_model([node("Relu", "x", "y")], {"x": ["batch", 3, 224, 224]}, ["y"])
    assert refusal(proto) == (
        "m.onnx: the shapes of 1 of its inputs are not fixed: x [batch,3,224,224]\n"
        "hint: fix them: --shape x=1,3,224,224"
    )
    assert refusal(dynamic()) == (
        "m.onnx: the shapes of 2 of its inputs are not fixed: x [N,3,8,?], m [N,1,1,W]\n"
        "hint: fix them: --shape x=1,3,8,<axis 3> --shape m=1,1,1,<W>"
    )
    assert refusal(make_model([node("Relu", "x", "y")], {"x": None}, ["y"])) == (
        "m.onnx: the shapes of 1 of its inputs are not fixed: x [rank unknown]\n"
        "hint: fix them: --shape x=<extents>"
    )


def test_a_named_extent_is_the_same_in_all_inputs() -> None:
    proto = make_model([node("Add", "x m", "y")], {"x": ["N", 3], "m": ["N", 1]}, ["y"])
    graph = import_graph(in_memory(proto), {"x": (2, 3)})
    assert [v.type for v in graph.inputs] == [f32(2, 3), f32(2, 1)]
    assert refusal(proto, {"x": (2, 3), "m": (4, 1)}) == (
        'm.onnx: extent "N" is 2 in input "x", but 4 in input "m"'
    )


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (
            {"data": (1, 3)},
            'm.onnx: a shape is given for "data", which is not an input\n'
            "hint: inputs: x [N,3,8,?], m [N,1,1,W]",
        ),
        (
            {"x": (1, 3, 8)},
            'm.onnx: input "x" has 4 axes (x [N,3,8,?]), but the given shape [1,3,8] has 3',
        ),
        (
            {"x": (1, 4, 8, 8)},
            "m.onnx: the model fixes axis 1 of x [N,3,8,?] to 3, but the given shape is [1,4,8,8]\n"
            "hint: export the model with a dynamic axis",
        ),
        ({"x": (0, 3, 8, 8)}, 'm.onnx: input "x": extents must be positive, not [0,3,8,8]'),
    ],
)
def test_shapes_that_contradict_the_model(shapes: dict[str, tuple[int, ...]], text: str) -> None:
    assert refusal(dynamic(), shapes) == text


# What cannot be compiled


def test_all_nodes_that_cannot_be_compiled_are_listed_at_once() -> None:
    proto = make_model(
        [
            node("Relu", "x", "a"),
            node("Hardmax", "a", "b", name="hard"),
            node("Fused", "b", "c", domain="com.microsoft"),
            node("Relu", "c", "lost"),
            node("Transpose", "b", "t", perm=[0, 1]),
            node("QuantizeLinear", "b s", "q", name="quantize"),
            node("Conv", "b w", "e", name="conv"),
        ],
        {"x": [1, 2, 3, 3, 3]},
        ["lost", "t", "q", "e"],
        {"s": np.float32(1), "w": np.zeros((2, 2, 1, 1, 1), np.float32)},
        domains=["com.microsoft"],
    )
    assert refusal(proto) == (
        "m.onnx: 5 nodes cannot be compiled:\n"
        '  node "hard" (Hardmax): this operator is not supported\n'
        '  node "Fused_2" (com.microsoft.Fused): operators of the domain "com.microsoft" are not supported\n'
        '  node "Transpose_4" (transpose): permutation [0, 1] does not permute the 5 axes of f32[1,2,3,3,3]\n'
        '  node "quantize" (QuantizeLinear): models that are already quantized are not supported yet\n'
        '  node "conv" (Conv): f32[1,2,3,3,3] has 5 axes; one or two spatial axes are supported\n'
        "hint: replace it in the model by supported operators; "
        "export the model with standard ONNX operators only; give the float model that it was made from"
    )


def test_nodes_that_no_output_needs_are_passed_over() -> None:
    proto = make_model([node("Relu", "x", "y"), node("NonZero", "x", "z")], {"x": [1, 4]}, ["y"])
    assert [n.op.mnemonic for n in import_graph(in_memory(proto)).nodes] == ["clip"]


def test_inputs_that_are_not_real_numbers() -> None:
    proto = make_model([node("Gather", "t i", "y")], {"i": [3]}, ["y"], {"t": np.ones((4, 2), np.float32)})
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    assert refusal(proto) == (
        'm.onnx: inputs must be tensors of real numbers: "i" (int64 tensor)\n'
        "hint: export the model with float inputs"
    )


def test_outputs_that_nothing_computes() -> None:
    proto = make_model([node("Constant", "", "c", value_floats=[1.0])], {"x": [1]}, ["c"])
    assert refusal(proto) == (
        'm.onnx: the output "c" is constant: it depends on no input\n'
        "hint: remove it from the model's outputs"
    )
    assert refusal(make_model([], {"x": [1]}, ["y"])) == 'm.onnx: no node computes the output "y"'


def test_nodes_out_of_order() -> None:
    proto = make_model([node("Relu", "a", "y", name="r")], {"x": [1]}, ["y"])
    assert refusal(proto) == (
        'm.onnx: node "r" (Relu): it reads "a", which no node before it computes\n'
        "hint: check the model: python -m onnx.bin.checker FILE"
    )


# Known values


def test_shape_computations_fold_away() -> None:
    proto = make_model(
        [
            node("Relu", "x", "r"),
            node("Shape", "r", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n axes", "n1"),
            node("Concat", "n1 rest", "shape", axis=0),
            node("Reshape", "r shape", "y"),
        ],
        {"x": [2, 3, 4]},
        ["y"],
        {"zero": np.int64(0), "axes": np.int64([0]), "rest": np.int64([-1])},
    )
    graph = assert_equals_onnxruntime(in_memory(proto))
    assert [n.op.mnemonic for n in graph.nodes] == ["clip", "reshape"]
    assert graph.outputs[0].type == f32(2, 12)


def test_weights_are_computed_at_import() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    proto = make_model(
        [
            node("Transpose", "w", "wt", perm=[1, 0]),
            node("Exp", "wt", "e"),
            node("Add", "x e", "y"),
        ],
        {"x": [4, 4]},
        ["y"],
        {"w": weight},
    )
    graph = assert_equals_onnxruntime(in_memory(proto))
    (constant,) = [v.constant for v in graph.values() if v.constant is not None]
    np.testing.assert_allclose(constant, np.exp(weight.T), rtol=1e-6)


def test_random_numbers_are_not_constants() -> None:
    proto = make_model(
        [node("RandomNormal", "", "r", shape=[4], name="noise"), node("Add", "x r", "y")], {"x": [4]}, ["y"]
    )
    assert '"noise" (RandomNormal): this operator is not supported' in refusal(proto)


@pytest.mark.parametrize("condition", [True, False])
def test_a_known_condition_takes_one_branch(condition: bool) -> None:
    def branch(op_type: str) -> onnx.GraphProto:
        inner = [node(op_type, "x", f"{op_type}_in"), node("Relu", f"{op_type}_in", f"{op_type}_out")]
        out = helper.make_tensor_value_info(f"{op_type}_out", TensorProto.FLOAT, [4])
        return helper.make_graph(inner, op_type, [], [out])

    chosen = node("If", "c", "y", then_branch=branch("Neg"), else_branch=branch("Sigmoid"))
    graph = assert_equals_onnxruntime(in_memory(make_model([chosen], {"x": [4]}, ["y"], {"c": condition})))
    assert ("unary" in {n.op.mnemonic for n in graph.nodes}) is not condition


def test_a_computed_condition_is_refused() -> None:
    out = [helper.make_tensor_value_info("o", TensorProto.FLOAT, [4])]
    branch = helper.make_graph([node("Relu", "x", "o")], "b", [], out)
    proto = make_model(
        [
            node("Cast", "x", "c", to=TensorProto.BOOL),
            node("If", "c", "y", then_branch=branch, else_branch=branch),
        ],
        {"x": [4]},
        ["y"],
    )
    assert "Cast" in refusal(proto)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)]
    )
    twice = [node("Twice", "x", "t", domain="mine"), node("Relu", "t", "y")]
    proto = make_model(twice, {"x": [4]}, ["y"], functions=[function], domains=["mine"])
    assert_equals_onnxruntime(load_model(save(proto, tmp_path)))


def test_external_weights_are_mapped(tmp_path: Path) -> None:
    weight = np.arange(2048, dtype=np.float32).reshape(32, 64)
    proto = make_model([node("MatMul", "x w", "y")], {"x": [2, 32]}, ["y"], {"w": weight})
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    model = load_model(path)
    assert not model.proto.graph.initializer[0].raw_data
    assert_equals_onnxruntime(model)


def test_attributes_of_the_wrong_type() -> None:
    assert refusal(make_model([node("Transpose", "x", "y", name="t", perm=1)], {"x": [4]}, ["y"])) == (
        'm.onnx: node "t" (Transpose): attribute "perm" is of type int, not list'
    )


def test_nodes_that_break_their_specification_are_named() -> None:
    text = refusal(make_model([node("Concat", "x x", "y", axis=5, name="c")], {"x": [4]}, ["y"]))
    assert text.startswith('m.onnx: node "c" (')


def test_tensors_of_the_wrong_size() -> None:
    proto = make_model([node("Add", "x w", "y")], {"x": [4]}, ["y"], {"w": np.ones(4, np.float32)})
    proto.graph.initializer[0].dims[0] = 5
    text = refusal(proto)
    assert text.startswith('m.onnx: the data of tensor "w" do not fit its type and shape: ')
    assert text.endswith("\nhint: copy or export the model again")


# Names


def test_names_and_sources_follow_the_model() -> None:
    proto = make_model(
        [
            node("Conv", "x w", "conv_out", pads=[1, 1, 1, 1]),
            node("Relu", "conv_out", "relu_out"),
            node("Dropout", "relu_out", "dropped mask"),
            node("Flatten", "dropped", "flat"),
        ],
        {"x": [1, 3, 8, 8]},
        ["flat"],
        {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)},
    )
    graph = assert_equals_onnxruntime(in_memory(proto))
    by_name = {v.name: v for v in graph.values()}
    assert by_name["conv_out"].type == f32(1, 4, 8, 8)
    (conv,) = [n for n in graph.nodes if n.op.mnemonic == "conv2d"]
    assert conv.output.type == f32(1, 8, 8, 4)
    assert conv.output.source == "conv_out"
    assert conv.location.names == ("Conv_0",)
    assert by_name["relu_out"].source == "relu_out"
    assert [v.name for v in graph.outputs] == ["flat"]


def test_outputs_that_are_one_tensor_become_two() -> None:
    proto = make_model(
        [node("Relu", "x", "y"), node("Identity", "y", "z"), node("Identity", "x", "same")],
        {"x": [1, 4]},
        ["y", "z", "same"],
    )
    graph = assert_equals_onnxruntime(in_memory(proto))
    assert len({*graph.outputs, *graph.inputs}) == 4
    x = np.float32([[-1, 2, -3, 4]])
    results = run(graph, {"x": x})
    np.testing.assert_array_equal(results["same"], x)
    np.testing.assert_array_equal(results["y"], results["z"])


# Whole models


@pytest.mark.skipif(ZOO is None, reason="BITLOOM_ZOO names no folder with the reference models")
@pytest.mark.parametrize("name", ZOO_MODELS)
def test_reference_models_equal_onnxruntime_in_every_tensor(name: str) -> None:
    assert_equals_onnxruntime(load_model(Path(str(ZOO)) / "models" / f"{name}.onnx"))


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet",
        "shufflenet",
        "inception_v2",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("densenet121", marks=pytest.mark.slow),
    ],
)
def test_topologies_of_the_onnx_package_equal_onnxruntime(name: str) -> None:
    assert_equals_onnxruntime(load_model(LIGHT / f"light_{name}.onnx"))


# Damage


def damaged() -> bytes:
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Shape", "r", "s"),
        node("Gather", "s zero", "n"),
        node("Concat", "n rest", "to", axis=0),
        node("Reshape", "r to", "f"),
        node("Gemm", "f g", "y", transB=1),
    ]
    constants = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
        "zero": np.int64([0]),
        "rest": np.int64([-1]),
        "g": rng.normal(size=(2, 64)).astype(np.float32),
    }
    return make_model(nodes, {"x": [1, 3, 4, 4]}, ["y"], constants).SerializeToString()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_model_is_imported_or_refused(data: st.DataObject) -> None:
    content = bytearray(damaged())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(content)
        try:
            verify(import_graph(load_model(path)))
        except BitloomError as error:
            assert error.message


@pytest.mark.parametrize("byte", [0x80, 0], ids=["no text", "no input"])
def test_what_the_converter_of_old_models_stumbles_over_is_refused(byte: int, tmp_path: Path) -> None:
    """An old operator set, and a damaged name of the first node's input."""
    content = bytearray(damaged())
    content[-1], content[12] = 0, byte
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(BitloomError, match=r"opset 0 is older than \d+, and onnx cannot convert it: "):
        load_model(path)
