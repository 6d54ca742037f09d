"""ShuffleNetV2: Ma, Zhang, Zheng, Sun, "Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import conv_bn, scaled


def _depthwise(features: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution of each channel on its own, and batch norm; no activation follows it (figure 3)."""
    return conv_bn(features, features, 3, stride=stride, groups=features, activation=nn.Identity)


def _shuffled(left: Tensor, right: Tensor) -> Tensor:
    """The channels of two equally wide tensors, interleaved (channel shuffle in two groups)."""
    return torch.unflatten(torch.cat([left, right], dim=1), 1, (2, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved, and the two are shuffled (figure 3c)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        half = features // 2
        self.branch = nn.Sequential(conv_bn(half, half, 1), _depthwise(half, 1), conv_bn(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return _shuffled(left, self.branch(right))


class DownsampleUnit(nn.Module):
    """Both halves are made from the whole input at half the image size (figure 3d)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(_depthwise(inputs, 2), conv_bn(inputs, half, 1))
        self.right = nn.Sequential(conv_bn(inputs, half, 1), _depthwise(half, 2), conv_bn(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        return _shuffled(self.left(x), self.right(x))


def shufflenet_v2(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ShuffleNetV2 (table 5).

    Stages have their 1.0x channels times ``width``, rounded to even numbers; the paper's other sizes have hand-picked
    channels that are a little different.
    """
    features, last = scaled(24, width), scaled(1024, width)
    net = nn.Sequential(conv_bn(channels, features, 3, stride=2), nn.MaxPool2d(3, stride=2, padding=1))
    for feats, repeats in ((116, 4), (232, 8), (464, 4)):
        outputs = 2 * scaled(feats // 2, width)
        net.append(DownsampleUnit(features, outputs))
        net.extend(ShuffleUnit(outputs) for _ in range(repeats - 1))
        features = outputs
    net.append(conv_bn(features, last, 1))
    return nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes))
