"""The two pieces that most networks of the zoo are made of."""

from __future__ import annotations

from torch import nn


def scaled(features: int, width: float) -> int:
    """Number of channels when a network is made ``width`` times as wide; at least one."""
    return max(1, round(features * width))


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Convolution that keeps the image size (divided by ``stride``), batch norm, activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        activation(),
    )
