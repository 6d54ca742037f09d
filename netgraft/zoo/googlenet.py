"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015.

With batch norm after each convolution (Ioffe, Szegedy, ICML 2015) in place of local response normalisation,
and without the auxiliary classifiers, which later work found to matter little.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import conv_bn, scaled

# Table 1: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection. None stands for a max pooling of stride 2.
_MODULES = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    None,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    None,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


class Inception(nn.Module):
    """Four branches side by side, concatenated (figure 2b)."""

    def __init__(self, inputs: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int) -> None:
        super().__init__()
        self.one = conv_bn(inputs, one, 1)
        self.three = nn.Sequential(conv_bn(inputs, reduce3, 1), conv_bn(reduce3, three, 3))
        self.five = nn.Sequential(conv_bn(inputs, reduce5, 1), conv_bn(reduce5, five, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv_bn(inputs, pool, 1))
        self.outputs = one + three + five + pool

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


def googlenet(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """GoogLeNet (Inception v1) with the stem for ImageNet."""
    stem, features = scaled(64, width), scaled(192, width)
    net = nn.Sequential(
        conv_bn(channels, stem, 7, stride=2),
        nn.MaxPool2d(3, stride=2, padding=1),
        conv_bn(stem, stem, 1),
        conv_bn(stem, features, 3),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    for branches in _MODULES:
        if branches is None:
            net.append(nn.MaxPool2d(3, stride=2, padding=1))
        else:
            module = Inception(features, *(scaled(f, width) for f in branches))
            net.append(module)
            features = module.outputs
    return nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(features, classes))
