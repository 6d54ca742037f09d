"""DenseNet: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017.

Parameters have torchvision's names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import named, scaled


class DenseLayer(nn.Module):
    """BN-ReLU-1x1 and BN-ReLU-3x3 convolutions whose output is appended to the input (DenseNet-B)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        y = self.conv2(torch.relu(self.norm2(y)))
        return torch.cat([x, y], dim=1)


def _densenet(stem: Mapping[str, nn.Module], growth: int, depths: Sequence[int], classes: int) -> nn.Module:
    """DenseNet-BC: a stem of twice the growth rate, dense blocks with compression by 0.5 between (section 3)."""
    net, features = dict(stem), 2 * growth
    for block, depth in enumerate(depths, start=1):
        layers = {f"denselayer{i + 1}": DenseLayer(features + i * growth, growth) for i in range(depth)}
        net[f"denseblock{block}"] = named(**layers)
        features += depth * growth
        if block < len(depths):
            kept = features // 2
            conv = nn.Conv2d(features, kept, 1, bias=False)
            net[f"transition{block}"] = named(
                norm=nn.BatchNorm2d(features), relu=nn.ReLU(), conv=conv, pool=nn.AvgPool2d(2)
            )
            features = kept
    net[f"norm{len(depths) + 1}"] = nn.BatchNorm2d(features)
    return named(
        features=named(**net),
        relu=nn.ReLU(),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(features, classes),
    )


def densenet40(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """DenseNet-BC of 40 layers for CIFAR with growth rate 12 (times ``width``)."""
    growth = scaled(12, width)
    return _densenet({"conv0": nn.Conv2d(channels, 2 * growth, 3, padding=1, bias=False)}, growth, (6, 6, 6), classes)


def densenet121(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """DenseNet-121 for ImageNet (table 1) with growth rate 32 (times ``width``)."""
    growth = scaled(32, width)
    stem = {
        "conv0": nn.Conv2d(channels, 2 * growth, 7, stride=2, padding=3, bias=False),
        "norm0": nn.BatchNorm2d(2 * growth),
        "relu0": nn.ReLU(),
        "pool0": nn.MaxPool2d(3, stride=2, padding=1),
    }
    return _densenet(stem, growth, (6, 12, 24, 16), classes)
