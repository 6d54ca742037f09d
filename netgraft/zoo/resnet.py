"""Residual networks: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016; and ResNeXt.

Parameters have torchvision's names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import named, scaled


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or the projection of option B (section 3.3) where the shape changes."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.downsample = _shortcut(inputs, features, stride)
        self.outputs = features

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right).

    The stride sits on the 3x3 convolution, as everybody does since; the paper has it on the first 1x1. The inner
    convolutions are ``inner`` times ``features`` wide, rounded to a multiple of ``groups``.
    """

    def __init__(self, inputs: int, features: int, stride: int, *, inner: int = 1, groups: int = 1) -> None:
        super().__init__()
        hidden = groups * scaled(features, inner / groups)
        self.outputs = 4 * features
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, self.outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.outputs)
        self.downsample = _shortcut(inputs, self.outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + self.downsample(x))


Block = Callable[[int, int, int], BasicBlock | Bottleneck]


def _resnet(
    conv1: nn.Conv2d, pool: nn.Module, block: Block, depths: Sequence[int], features: Sequence[int], classes: int
) -> nn.Module:
    """A stem, stages of residual blocks that halve the image from the second stage on, and a linear classifier."""
    layers: dict[str, nn.Module] = {}
    inputs = conv1.out_channels
    for stage, (depth, feats) in enumerate(zip(depths, features, strict=True)):
        layer = nn.Sequential()
        for index in range(depth):
            added = block(inputs, feats, 2 if stage > 0 and index == 0 else 1)
            layer.append(added)
            inputs = added.outputs
        layers[f"layer{stage + 1}"] = layer
    stem = {"conv1": conv1, "bn1": nn.BatchNorm2d(conv1.out_channels), "relu": nn.ReLU(), "maxpool": pool}
    return named(**stem, **layers, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(inputs, classes))


def _cifar_resnet(depth: int, classes: int, channels: int, width: float) -> nn.Module:
    """Section 4.2: 6n + 2 layers in three stages, for small images of any size down to 4x4."""
    features = [scaled(f, width) for f in (16, 32, 64)]
    conv1 = nn.Conv2d(channels, features[0], 3, padding=1, bias=False)
    return _resnet(conv1, nn.Identity(), BasicBlock, [(depth - 2) // 6] * 3, features, classes)


def _imagenet_resnet(block: Block, depths: Sequence[int], classes: int, channels: int, width: float) -> nn.Module:
    """Table 1: a 7x7 stem that divides the image size by four, and four stages."""
    features = [scaled(f, width) for f in (64, 128, 256, 512)]
    conv1 = nn.Conv2d(channels, features[0], 7, 2, padding=3, bias=False)
    return _resnet(conv1, nn.MaxPool2d(3, stride=2, padding=1), block, depths, features, classes)


def resnet20(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-20 for CIFAR with projection shortcuts (option B; the paper's CIFAR nets pad with zeros, option A)."""
    return _cifar_resnet(20, classes, channels, width)


def resnet56(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-56 for CIFAR with projection shortcuts (option B; the paper's CIFAR nets pad with zeros, option A)."""
    return _cifar_resnet(56, classes, channels, width)


def resnet110(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-110 for CIFAR with projection shortcuts (option B; the paper's CIFAR nets pad with zeros, option A)."""
    return _cifar_resnet(110, classes, channels, width)


def resnet18(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-18 with the stem for ImageNet."""
    return _imagenet_resnet(BasicBlock, (2, 2, 2, 2), classes, channels, width)


def resnet34(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-34 with the stem for ImageNet."""
    return _imagenet_resnet(BasicBlock, (3, 4, 6, 3), classes, channels, width)


def resnet50(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-50 with the stem for ImageNet."""
    return _imagenet_resnet(Bottleneck, (3, 4, 6, 3), classes, channels, width)


def resnet101(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-101 with the stem for ImageNet."""
    return _imagenet_resnet(Bottleneck, (3, 4, 23, 3), classes, channels, width)


def resnext50(*, classes: int = 10, channels: int = 3, width: float = 1.0, groups: int = 32) -> nn.Module:
    """ResNeXt-50 (Xie, Girshick, Dollar, Tu, He, CVPR 2017, table 1): 32x4d, with the stem for ImageNet."""
    return _imagenet_resnet(partial(Bottleneck, inner=2, groups=groups), (3, 4, 6, 3), classes, channels, width)


def wrn_50_2(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """WRN-50-2-bottleneck (Zagoruyko, Komodakis, BMVC 2016): ResNet-50 with inner convolutions twice as wide."""
    return _imagenet_resnet(partial(Bottleneck, inner=2), (3, 4, 6, 3), classes, channels, width)
