"""Convolutions of well-known networks as forms, with how often each occurs (depthwise ones left out)."""

from __future__ import annotations

from collections import Counter

from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType


def _conv(
    size: int, channels: int, outputs: int, kernel: int = 1, stride: int = 1, pad: int | None = None
) -> Convolution:
    """int8 convolution of a square image; padding (kernel - 1) / 2 on all sides unless given."""
    pad = (kernel - 1) // 2 if pad is None else pad
    out = (size + 2 * pad - kernel) // stride + 1
    i8 = ElementType.I8
    return Convolution(
        *(1, size, size, channels, out, out, outputs, kernel, kernel, i8, i8, i8),
        stride=(stride, stride),
        pad=(pad, pad),
    )


def squeezenet1_1() -> Counter[Convolution]:
    layers = Counter([_conv(224, 3, 64, 3, 2, 0)])
    fires = [(55, 64, 16, 64), (55, 128, 16, 64), (27, 128, 32, 128), (27, 256, 32, 128)]
    fires += [(13, 256, 48, 192), (13, 384, 48, 192), (13, 384, 64, 256), (13, 512, 64, 256)]
    for size, channels, squeeze, expand in fires:
        layers.update([_conv(size, channels, squeeze), _conv(size, squeeze, expand)])
        layers.update([_conv(size, squeeze, expand, 3)])
    layers.update([_conv(13, 512, 1000)])
    return layers


def mobilenet_v2() -> Counter[Convolution]:
    layers = Counter([_conv(224, 3, 32, 3, 2), _conv(112, 32, 16)])
    size, channels = 112, 16
    blocks = [(6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, outputs, repeats, stride in blocks:
        for i in range(repeats):
            layers.update([_conv(size, channels, channels * expansion)])
            size = size // stride if i == 0 else size
            layers.update([_conv(size, channels * expansion, outputs)])
            channels = outputs
    layers.update([_conv(7, 320, 1280), _conv(1, 1280, 1000)])
    return layers


def resnet50() -> Counter[Convolution]:
    layers = Counter([_conv(224, 3, 64, 7, 2)])
    channels = 64
    for width, repeats, size, first_stride in (
        (64, 3, 56, 1),
        (128, 4, 56, 2),
        (256, 6, 28, 2),
        (512, 3, 14, 2),
    ):
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            inside = size // stride
            layers.update([_conv(size, channels, width), _conv(size, width, width, 3, stride)])
            layers.update([_conv(inside, width, 4 * width)])
            if i == 0:
                layers.update([_conv(size, channels, 4 * width, 1, stride)])
            size, channels = inside, 4 * width
    layers.update([_conv(1, 2048, 1000)])
    return layers


NETWORKS = {"squeezenet1_1": squeezenet1_1, "mobilenet_v2": mobilenet_v2, "resnet50": resnet50}
