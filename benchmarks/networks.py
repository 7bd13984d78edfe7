"""Large networks for timing that nobody has to download: random weights, sane activations."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IMAGE_SHAPE = (1, 3, 224, 224)
CLASSES = 1000


def resnet50(path: Path, seed: int = 0) -> None:
    """Writes ResNet-50 v1.5 (stride in the 3x3; 4.1 G MAC, 25.6 M parameters, 102 MB) to path.

    `image` float32 [1, 3, 224, 224] of unit variance to `scores` float32 [1, 1000]. Batch normalisations
    are nodes of their own. A bottleneck's last normalisation has a small scale, so that the mean square
    grows about 25 times over the sixteen additions, not 3^16 times. For timing: the scores of any two
    noise inputs are nearly the same.
    """
    writer = _Writer(np.random.default_rng(seed))
    x = writer.relu("stem", writer.conv("stem", "image", 3, 64, 7, stride=2))
    x = writer.node("MaxPool", "stem.pool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = writer.bottleneck(f"stage{stage + 1}.block{block + 1}", x, channels, width, stride)
            channels = 4 * width
    x = writer.node("GlobalAveragePool", "pool", [x])
    x = writer.node("Flatten", "flatten", [x])
    weight = writer.normal("classify.weight", (CLASSES, channels), fan_in=channels, gain=1.0)
    bias = writer.weight("classify.bias", np.zeros(CLASSES, np.float32))
    writer.nodes.append(helper.make_node("Gemm", [x, weight, bias], ["scores"], "classify", transB=1))
    graph = helper.make_graph(
        writer.nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE_SHAPE)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        writer.weights,
    )
    # The oldest file format that carries this opset, so that older readers accept the file.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@dataclass(slots=True)
class _Writer:
    """Collects nodes and weights. Each method adds what its name says and returns its output's name."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    weights: list[TensorProto] = field(default_factory=list[TensorProto])

    def weight(self, name: str, values: NDArray[np.float32]) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def normal(self, name: str, shape: tuple[int, ...], *, fan_in: int, gain: float) -> str:
        """Variance gain / fan_in: gain 2 keeps the mean square through a ReLU (He et al. 2015)."""
        values = self.random.standard_normal(shape, np.float32) * np.float32((gain / fan_in) ** 0.5)
        return self.weight(name, values)

    def node(self, operator: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}.out"], name, **attributes))
        return f"{name}.out"

    def relu(self, name: str, x: str) -> str:
        return self.node("Relu", f"{name}.relu", [x])

    def conv(
        self,
        name: str,
        x: str,
        inside: int,
        outside: int,
        kernel: int,
        *,
        stride: int = 1,
        scale: float = 1.0,
    ) -> str:
        """Convolution without bias and its normalisation, whose mean factor is scale."""
        fan_in = inside * kernel * kernel
        weight = self.normal(f"{name}.weight", (outside, inside, kernel, kernel), fan_in=fan_in, gain=2.0)
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        x = self.node("Conv", f"{name}.conv", [x, weight], **window)
        uniform = self.random.uniform
        statistics = {
            "scale": scale * uniform(0.8, 1.2, outside),
            "bias": uniform(-0.1, 0.1, outside),
            "mean": uniform(-0.1, 0.1, outside),
            "variance": uniform(0.8, 1.2, outside),
        }
        parameters = [
            self.weight(f"{name}.norm.{key}", values.astype(np.float32)) for key, values in statistics.items()
        ]
        return self.node("BatchNormalization", f"{name}.norm", [x, *parameters])

    def bottleneck(self, name: str, x: str, channels: int, width: int, stride: int) -> str:
        """[N, channels, H, W] to [N, 4 * width, H / stride, W / stride]."""
        y = self.relu(f"{name}.reduce", self.conv(f"{name}.reduce", x, channels, width, 1))
        y = self.relu(f"{name}.spatial", self.conv(f"{name}.spatial", y, width, width, 3, stride=stride))
        y = self.conv(f"{name}.expand", y, width, 4 * width, 1, scale=0.3)
        if channels != 4 * width:
            x = self.conv(f"{name}.shortcut", x, channels, 4 * width, 1, stride=stride)
        return self.relu(f"{name}.add", self.node("Add", f"{name}.add", [x, y]))
