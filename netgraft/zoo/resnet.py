"""Residual networks: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import conv_bn, scaled


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or the projection of option B (section 3.3) where the shape changes."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.shortcut = _shortcut(inputs, features, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right).

    The stride sits on the 3x3 convolution, as everybody does since; the paper has it on the first 1x1.
    """

    expansion = 4

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        outputs = features * self.expansion
        self.conv1 = nn.Conv2d(inputs, features, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages of residual blocks that halve the image from the second stage on, and a linear classifier."""

    def __init__(
        self,
        stem: nn.Module,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        features: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential()
        inputs = features[0]
        for stage, (depth, feats) in enumerate(zip(depths, features, strict=True)):
            blocks = nn.Sequential()
            for index in range(depth):
                blocks.append(block(inputs, feats, stride=2 if stage > 0 and index == 0 else 1))
                inputs = feats * block.expansion
            self.stages.append(blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stages(self.stem(x))).flatten(1))


def _cifar_resnet(depth: int, classes: int, channels: int, width: float) -> ResNet:
    """Section 4.2: 6n + 2 layers in three stages, for small images of any size down to 4x4."""
    features = [scaled(f, width) for f in (16, 32, 64)]
    stem = conv_bn(channels, features[0], 3)
    return ResNet(stem, BasicBlock, [(depth - 2) // 6] * 3, features, classes)


def _imagenet_resnet(
    block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], classes: int, channels: int, width: float
) -> ResNet:
    """Table 1: a 7x7 stem that divides the image size by four, and four stages."""
    features = [scaled(f, width) for f in (64, 128, 256, 512)]
    stem = nn.Sequential(conv_bn(channels, features[0], 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1))
    return ResNet(stem, block, depths, features, classes)


def resnet20(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-20 for CIFAR with projection shortcuts (option B; the paper's CIFAR nets pad with zeros, option A)."""
    return _cifar_resnet(20, classes, channels, width)


def resnet56(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-56 for CIFAR with projection shortcuts (option B; the paper's CIFAR nets pad with zeros, option A)."""
    return _cifar_resnet(56, classes, channels, width)


def resnet18(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-18 with the stem for ImageNet."""
    return _imagenet_resnet(BasicBlock, (2, 2, 2, 2), classes, channels, width)


def resnet50(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-50 with the stem for ImageNet."""
    return _imagenet_resnet(Bottleneck, (3, 4, 6, 3), classes, channels, width)
