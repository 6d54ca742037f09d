"""Wide residual networks for CIFAR: Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import named, scaled


class WideBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions, B(3,3) (section 3).

    Where the shape changes, the projection reads the first activation too, as in the authors' code.
    """

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        changes = inputs != features or stride != 1
        self.shortcut = nn.Conv2d(inputs, features, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(x))
        short = x if self.shortcut is None else self.shortcut(y)
        y = self.conv1(y)
        return self.conv2(torch.relu(self.bn2(y))) + short


def wide_resnet(depth: int, factor: int, *, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """WRN-``depth``-``factor`` (table 1): 6n + 4 layers, ``factor`` times as wide as a ResNet for CIFAR."""
    inputs = scaled(16, width)
    net: dict[str, nn.Module] = {"conv1": nn.Conv2d(channels, inputs, 3, padding=1, bias=False)}
    for stage, feats in enumerate((16, 32, 64)):
        features, layer = scaled(feats * factor, width), nn.Sequential()
        for index in range((depth - 4) // 6):
            layer.append(WideBlock(inputs, features, 2 if stage > 0 and index == 0 else 1))
            inputs = features
        net[f"layer{stage + 1}"] = layer
    net |= {"bn": nn.BatchNorm2d(inputs), "relu": nn.ReLU(), "avgpool": nn.AdaptiveAvgPool2d(1)}
    return named(**net, flatten=nn.Flatten(), fc=nn.Linear(inputs, classes))


def wrn_16_4(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """WRN-16-4, without dropout; images of any size down to 4x4."""
    return wide_resnet(16, 4, classes=classes, channels=channels, width=width)


def wrn_28_10(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """WRN-28-10, without dropout; images of any size down to 4x4."""
    return wide_resnet(28, 10, classes=classes, channels=channels, width=width)
