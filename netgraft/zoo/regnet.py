"""RegNet: Radosavovic, Kosaraju, Girshick, He, Dollar, "Designing Network Design Spaces", CVPR 2020.

Parameters have torchvision's names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import SqueezeExcitation, conv_bn, named, scaled


class XBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions of one width and a shortcut (figure 4); with ``squeeze``, the Y block."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, squeeze: bool) -> None:
        super().__init__()
        changes = inputs != outputs or stride != 1
        self.proj = conv_bn(inputs, outputs, 1, stride=stride, activation=None) if changes else nn.Identity()
        self.f = named(
            a=conv_bn(inputs, outputs, 1),
            b=conv_bn(outputs, outputs, 3, stride=stride, groups=groups),
            **({"se": SqueezeExcitation(outputs, scaled(inputs, 0.25))} if squeeze else {}),
            c=conv_bn(outputs, outputs, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.proj(x) + self.f(x))


def _regnet(
    depths: Sequence[int],
    features: Sequence[int],
    group: int,
    squeeze: bool,
    classes: int,
    channels: int,
    width: float,
) -> nn.Module:
    """A stem and four stages that halve the image each; ``features`` are scaled to multiples of the group width."""
    inputs = scaled(32, width)
    stem, trunk = conv_bn(channels, inputs, 3, stride=2), {}
    for stage, (depth, feats) in enumerate(zip(depths, features, strict=True), start=1):
        groups, blocks = scaled(feats, width / group), {}
        for index in range(depth):
            stride = 2 if index == 0 else 1
            blocks[f"block{stage}-{index}"] = XBlock(inputs, groups * group, stride, groups, squeeze)
            inputs = groups * group
        trunk[f"block{stage}"] = named(**blocks)
    return named(
        stem=stem,
        trunk_output=named(**trunk),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(inputs, classes),
    )


def regnet_x_400mf(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """RegNetX-400MF (figure 16): groups of 16 channels.

    The last stage has 400 channels as in torchvision, which rounds the paper's 384 differently.
    """
    return _regnet((1, 2, 7, 12), (32, 64, 160, 400), 16, False, classes, channels, width)


def regnet_y_400mf(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """RegNetY-400MF (figure 17): groups of 8 channels, and squeeze-and-excitation."""
    return _regnet((1, 3, 6, 6), (48, 104, 208, 440), 8, True, classes, channels, width)
