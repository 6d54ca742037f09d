"""The MobileNets: Howard et al., 2017 (V1); Sandler et al., CVPR 2018 (V2); Howard et al., ICCV 2019 (V3).

Parameters of V2 and V3 have torchvision's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from netgraft.zoo.layers import SqueezeExcitation, by_eights, classifier, conv_bn, scaled

# V1, table 1: output channels, stride.
_V1 = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)

# V2, table 2: expansion, output channels, repeats, stride of the first.
_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# V3, tables 1 and 2: kernel, expanded channels, output channels, squeeze-and-excitation, activation, stride.
_V3Row = tuple[int, int, int, bool, type[nn.Module], int]
_V3_LARGE: Sequence[_V3Row] = (
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
)
_V3_SMALL: Sequence[_V3Row] = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise by 3x3, project linearly by 1x1; with a shortcut where the shape stays (V2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.conv = nn.Sequential(conv_bn(inputs, hidden, 1, activation=nn.ReLU6)) if expansion > 1 else nn.Sequential()
        self.conv.append(conv_bn(hidden, hidden, 3, stride=stride, groups=hidden, activation=nn.ReLU6))
        self.conv.extend(conv_bn(hidden, outputs, 1, activation=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class SqueezedResidual(nn.Module):
    """The inverted residual with squeeze-and-excitation before the projection (V3, figure 4)."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int, squeeze: bool, act: type[nn.Module]
    ) -> None:
        super().__init__()
        conv = partial(conv_bn, activation=act, norm=_NORM)
        self.block = nn.Sequential(conv(inputs, hidden, 1)) if hidden != inputs else nn.Sequential()
        self.block.append(conv(hidden, hidden, kernel, stride=stride, groups=hidden))
        if squeeze:
            self.block.append(SqueezeExcitation(hidden, by_eights(hidden // 4), gate=nn.Hardsigmoid))
        self.block.append(conv(hidden, outputs, 1, activation=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


_NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


def mobilenet_v1(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """MobileNet (V1): depthwise 3x3 and pointwise convolutions, each with batch norm and ReLU."""
    inputs = scaled(32, width)
    features = nn.Sequential(conv_bn(channels, inputs, 3, stride=2))
    for feats, stride in _V1:
        outputs = scaled(feats, width)
        depthwise = conv_bn(inputs, inputs, 3, stride=stride, groups=inputs)
        features.append(nn.Sequential(depthwise, conv_bn(inputs, outputs, 1)))
        inputs = outputs
    return classifier(features, nn.Linear(inputs, classes))


def mobilenet_v2(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """MobileNetV2; widths are rounded to multiples of eight, and below 1.0 the last layer keeps its 1280 channels."""
    inputs = by_eights(32 * width)
    features = nn.Sequential(conv_bn(channels, inputs, 3, stride=2, activation=nn.ReLU6))
    for expansion, feats, repeats, stride in _V2:
        outputs = by_eights(feats * width)
        for index in range(repeats):
            features.append(InvertedResidual(inputs, outputs, stride if index == 0 else 1, expansion))
            inputs = outputs
    last = by_eights(1280 * max(1.0, width))
    features.append(conv_bn(inputs, last, 1, activation=nn.ReLU6))
    return classifier(features, nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes)))


def _mobilenet_v3(rows: Sequence[_V3Row], last: int, classes: int, channels: int, width: float) -> nn.Module:
    conv = partial(conv_bn, activation=nn.Hardswish, norm=_NORM)
    inputs = by_eights(16 * width)
    features = nn.Sequential(conv(channels, inputs, 3, stride=2))
    for kernel, hidden, feats, squeeze, act, stride in rows:
        outputs = by_eights(feats * width)
        features.append(SqueezedResidual(inputs, by_eights(hidden * width), outputs, kernel, stride, squeeze, act))
        inputs = outputs
    features.append(conv(inputs, 6 * inputs, 1))
    last = by_eights(last * width)
    hidden_layer = (nn.Linear(6 * inputs, last), nn.Hardswish(), nn.Dropout(0.2))
    return classifier(features, nn.Sequential(*hidden_layer, nn.Linear(last, classes)))


def mobilenet_v3_large(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """MobileNetV3-Large (table 1); widths are rounded to multiples of eight."""
    return _mobilenet_v3(_V3_LARGE, 1280, classes, channels, width)


def mobilenet_v3_small(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """MobileNetV3-Small (table 2); widths are rounded to multiples of eight."""
    return _mobilenet_v3(_V3_SMALL, 1024, classes, channels, width)
