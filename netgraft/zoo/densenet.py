"""DenseNet: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import scaled


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


def densenet40(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """DenseNet-BC of 40 layers for CIFAR with growth rate 12 (times ``width``) and compression 0.5 (section 3)."""
    growth = scaled(12, width)
    features = 2 * growth
    net = nn.Sequential(nn.Conv2d(channels, features, 3, padding=1, bias=False))
    for block in range(3):
        if block > 0:
            kept = features // 2
            net += nn.Sequential(
                nn.BatchNorm2d(features), nn.ReLU(), nn.Conv2d(features, kept, 1, bias=False), nn.AvgPool2d(2)
            )
            features = kept
        for _ in range(6):
            net.append(DenseLayer(features, growth))
            features += growth
    net += nn.Sequential(nn.BatchNorm2d(features), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net.append(nn.Linear(features, classes))
