"""MobileNetV2: Sandler et al., "Inverted Residuals and Linear Bottlenecks", CVPR 2018."""

from __future__ import annotations

from torch import Tensor, nn

from netgraft.zoo.layers import conv_bn

# Table 2: expansion, output channels, repeats, stride of the first.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _by_eights(features: float) -> int:
    """The nearest multiple of eight that is not more than 10 % less, as in the authors' code."""
    rounded = max(8, int(features + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * features else rounded


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise by 3x3, project linearly by 1x1; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_bn(inputs, hidden, 1, activation=nn.ReLU6) if expansion > 1 else nn.Identity()
        self.depthwise = conv_bn(hidden, hidden, 3, stride=stride, groups=hidden, activation=nn.ReLU6)
        self.project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def mobilenet_v2(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """MobileNetV2; widths are rounded to multiples of eight, and below 1.0 the last layer keeps its 1280 channels."""
    inputs = _by_eights(32 * width)
    features = nn.Sequential(conv_bn(channels, inputs, 3, stride=2, activation=nn.ReLU6))
    for expansion, feats, repeats, stride in _STAGES:
        outputs = _by_eights(feats * width)
        for index in range(repeats):
            features.append(InvertedResidual(inputs, outputs, stride if index == 0 else 1, expansion))
            inputs = outputs
    last = _by_eights(1280 * max(1.0, width))
    features.append(conv_bn(inputs, last, 1, activation=nn.ReLU6))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(last, classes))
