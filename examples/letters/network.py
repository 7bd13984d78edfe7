"""The network, written once as PyTorch modules and exported node by node to ONNX.

Batch normalisations stay nodes of their own in the ONNX file: folding them is the compiler's work.
"""

from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

OPSET = 17


class Activation(Enum):
    NONE = auto()
    RELU = auto()
    RELU6 = auto()
    HARD_SWISH = auto()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        match self:
            case Activation.NONE:
                return x
            case Activation.RELU:
                return functional.relu(x)
            case Activation.RELU6:
                return functional.relu6(x)
            case Activation.HARD_SWISH:
                return functional.hardswish(x)


class Unit(nn.Module):
    """Convolution without bias, batch normalisation, activation.

    size: height and width of the input. The output has ceil(size / stride); an odd total of padding puts
    the extra row and column at the bottom and right, as TensorFlow's SAME does.
    """

    def __init__(
        self,
        size: int,
        channels: tuple[int, int],
        kernel: int,
        act: Activation,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        self.pads = (total // 2, total - total // 2)
        self.act = act
        self.conv = nn.Conv2d(*channels, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(functional.pad(x, self.pads * 2))))


class Separable(nn.Module):
    """Depthwise unit, then pointwise unit; a block that keeps its shape adds its input."""

    def __init__(
        self, size: int, channels: tuple[int, int], act: Activation, *, kernel: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        inside = channels[0]
        self.residual = channels[0] == channels[1] and stride == 1
        self.depthwise = Unit(size, (inside, inside), kernel, Activation.RELU6, stride=stride, groups=inside)
        self.pointwise = Unit(size // stride, channels, 1, Activation.NONE if self.residual else act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pointwise(self.depthwise(x))
        return x + y if self.residual else y


class LetterNetwork(nn.Module):
    """float32 [N, 1, 32, 32] in 0..1 to class scores [N, 26]; the ONNX form adds a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Unit(32, (1, 24), 3, Activation.RELU)
        self.blocks = nn.ModuleList(
            [
                Separable(32, (24, 48), Activation.RELU6, stride=2),
                Separable(16, (48, 48), Activation.RELU6),
                Separable(16, (48, 96), Activation.HARD_SWISH, stride=2),
                Separable(8, (96, 96), Activation.HARD_SWISH),
                Separable(8, (96, 160), Activation.HARD_SWISH, kernel=5, stride=2),
                Separable(4, (160, 160), Activation.HARD_SWISH),
            ]
        )
        self.classify = nn.Linear(160, 26)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classify(x.mean((2, 3)))


def export(network: LetterNetwork, path: Path) -> None:
    """Writes `image` float32 [1, 1, 32, 32] to `probabilities` float32 [1, 26]."""
    writer = _OnnxWriter()
    x = writer.unit("stem", network.stem, "image")
    for index, block in enumerate(network.blocks):
        assert isinstance(block, Separable)
        x = writer.separable(f"block{index + 1}", block, x)
    x = writer.node("GlobalAveragePool", "pool", [x])
    x = writer.node("Flatten", "flatten", [x])
    weight = writer.weight("classify.weight", network.classify.weight)
    bias = writer.weight("classify.bias", network.classify.bias)
    x = writer.node("Gemm", "classify", [x, weight, bias], transB=1)
    writer.nodes.append(helper.make_node("Softmax", [x], ["probabilities"], "softmax", axis=-1))
    graph = helper.make_graph(
        writer.nodes,
        "letters",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 32, 32])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 26])],
        writer.weights,
    )
    # The oldest file format that carries this opset, so that older readers accept the file.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class _OnnxWriter:
    """Collects nodes and weights. Each method adds what its name says and returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = [
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            numpy_helper.from_array(np.array(6, np.float32), "six"),
        ]

    def weight(self, name: str, tensor: torch.Tensor) -> str:
        self.weights.append(numpy_helper.from_array(tensor.detach().numpy(), name))
        return name

    def node(self, operator: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}.out"], name, **attributes))
        return f"{name}.out"

    def unit(self, name: str, unit: Unit, x: str) -> str:
        conv, norm = unit.conv, unit.norm
        before, after = unit.pads
        x = self.node(
            "Conv",
            f"{name}.conv",
            [x, self.weight(f"{name}.conv.weight", conv.weight)],
            kernel_shape=conv.kernel_size,
            strides=conv.stride,
            pads=[before, before, after, after],
            group=conv.groups,
        )
        assert norm.running_mean is not None
        assert norm.running_var is not None
        statistics = {
            "scale": norm.weight,
            "bias": norm.bias,
            "mean": norm.running_mean,
            "variance": norm.running_var,
        }
        parameters = [self.weight(f"{name}.norm.{key}", value) for key, value in statistics.items()]
        x = self.node("BatchNormalization", f"{name}.norm", [x, *parameters], epsilon=norm.eps)
        match unit.act:
            case Activation.NONE:
                return x
            case Activation.RELU:
                return self.node("Relu", f"{name}.relu", [x])
            case Activation.RELU6:
                return self.node("Clip", f"{name}.relu6", [x, "zero", "six"])
            case Activation.HARD_SWISH:
                return self.node("HardSwish", f"{name}.hardswish", [x])

    def separable(self, name: str, block: Separable, x: str) -> str:
        y = self.unit(f"{name}.depthwise", block.depthwise, x)
        y = self.unit(f"{name}.pointwise", block.pointwise, y)
        return self.node("Add", f"{name}.add", [x, y]) if block.residual else y
