"""SqueezeNet: Iandola et al., "AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016.

Parameters have torchvision's names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import named, scaled


class Fire(nn.Module):
    """Squeeze by 1x1, then expand by 1x1 and by 3x3 side by side (figure 1)."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], dim=1)


def squeezenet(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """SqueezeNet 1.0 (table 1); images of 31x31 or larger."""
    features = scaled(96, width)
    net = nn.Sequential(nn.Conv2d(channels, features, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=2))
    # The two pairs of numbers of a fire module; None stands for a max pooling of stride 2.
    for fire in ((16, 64), (16, 64), (32, 128), None, (32, 128), (48, 192), (48, 192), (64, 256), None, (64, 256)):
        if fire is None:
            net.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
        else:
            squeeze, expand = (scaled(f, width) for f in fire)
            net.append(Fire(features, squeeze, expand))
            features = 2 * expand
    head = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(features, classes, 1), nn.ReLU())
    return named(features=net, classifier=head, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
