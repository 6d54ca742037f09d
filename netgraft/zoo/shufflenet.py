"""ShuffleNetV2: Ma, Zhang, Zheng, Sun, "Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018.

Parameters have torchvision's names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import conv_bn, named, scaled


def _depthwise(features: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution of each channel on its own, and batch norm; no activation follows it (figure 3)."""
    return conv_bn(features, features, 3, stride=stride, groups=features, activation=None)


def _shuffled(left: Tensor, right: Tensor) -> Tensor:
    """The channels of two equally wide tensors, interleaved (channel shuffle in two groups)."""
    return torch.unflatten(torch.cat([left, right], dim=1), 1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """1x1, depthwise 3x3 and 1x1 convolutions."""
    return nn.Sequential(*conv_bn(inputs, outputs, 1), *_depthwise(outputs, stride), *conv_bn(outputs, outputs, 1))


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved, and the two are shuffled (figure 3c)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.branch2 = _branch(features // 2, features // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return _shuffled(left, self.branch2(right))


class DownsampleUnit(nn.Module):
    """Both halves are made from the whole input at half the image size (figure 3d)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch1 = nn.Sequential(*_depthwise(inputs, 2), *conv_bn(inputs, outputs // 2, 1))
        self.branch2 = _branch(inputs, outputs // 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return _shuffled(self.branch1(x), self.branch2(x))


def shufflenet_v2(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ShuffleNetV2 (table 5).

    Stages have their 1.0x channels times ``width``, rounded to even numbers; the paper's other sizes have hand-picked
    channels that are a little different.
    """
    features, last = scaled(24, width), scaled(1024, width)
    conv1 = conv_bn(channels, features, 3, stride=2)
    stages = {}
    for number, (feats, repeats) in enumerate(((116, 4), (232, 8), (464, 4)), start=2):
        outputs = 2 * scaled(feats // 2, width)
        units = (ShuffleUnit(outputs) for _ in range(repeats - 1))
        stages[f"stage{number}"] = nn.Sequential(DownsampleUnit(features, outputs), *units)
        features = outputs
    return named(
        conv1=conv1,
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        **stages,
        conv5=conv_bn(features, last, 1),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(last, classes),
    )
