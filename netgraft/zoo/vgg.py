"""VGG: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.

For CIFAR: batch norm after each convolution, and global pooling and one linear layer in place of the three large ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from netgraft.zoo.layers import conv_bn, scaled


def _vgg(depths: Sequence[int], classes: int, channels: int, width: float) -> nn.Sequential:
    """Table 1: five groups of 3x3 convolutions, each followed by a pooling that halves the image."""
    features = nn.Sequential()
    inputs = channels
    for depth, feats in zip(depths, (64, 128, 256, 512, 512), strict=True):
        for _ in range(depth):
            features.append(conv_bn(inputs, scaled(feats, width), 3))
            inputs = scaled(feats, width)
        features.append(nn.MaxPool2d(2))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def vgg11(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG-11 (configuration A) with batch norm; images of 32x32 or larger."""
    return _vgg((1, 1, 2, 2, 2), classes, channels, width)


def vgg13(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG-13 (configuration B) with batch norm; images of 32x32 or larger."""
    return _vgg((2, 2, 2, 2, 2), classes, channels, width)


def vgg16(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG-16 (configuration D) with batch norm; images of 32x32 or larger."""
    return _vgg((2, 2, 3, 3, 3), classes, channels, width)


def vgg19(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG-19 (configuration E) with batch norm; images of 32x32 or larger."""
    return _vgg((2, 2, 4, 4, 4), classes, channels, width)
