"""EfficientNet: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019.

Without stochastic depth, which is part of the training, not of the network. Parameters have torchvision's names.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from netgraft.zoo.layers import SqueezeExcitation, by_eights, classifier, conv_bn

# Table 1: expansion, kernel, stride of the first, output channels, repeats.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class MBConv(nn.Module):
    """MobileNetV2's inverted residual with SiLU, and squeeze-and-excitation to a quarter of the block's input."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        conv, hidden = partial(conv_bn, activation=nn.SiLU), by_eights(inputs * expansion)
        self.block = nn.Sequential(conv(inputs, hidden, 1)) if hidden != inputs else nn.Sequential()
        self.block.append(conv(hidden, hidden, kernel, stride=stride, groups=hidden))
        self.block.append(SqueezeExcitation(hidden, max(1, inputs // 4), activation=nn.SiLU))
        self.block.append(conv(hidden, outputs, 1, activation=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


def efficientnet_b0(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """EfficientNet-B0; widths are rounded to multiples of eight."""
    inputs = by_eights(32 * width)
    features = nn.Sequential(conv_bn(channels, inputs, 3, stride=2, activation=nn.SiLU))
    for expansion, kernel, stride, feats, repeats in _STAGES:
        outputs, stage = by_eights(feats * width), nn.Sequential()
        for index in range(repeats):
            stage.append(MBConv(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
            inputs = outputs
        features.append(stage)
    features.append(conv_bn(inputs, 4 * inputs, 1, activation=nn.SiLU))
    return classifier(features, nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * inputs, classes)))
