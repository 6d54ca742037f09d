"""ConvNeXt: Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, "A ConvNet for the 2020s", CVPR 2022.

Without stochastic depth, which is part of the training, not of the network. Parameters have torchvision's names.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import named, scaled


class Permute(nn.Module):
    """The dimensions in another order."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of images (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm, and a perceptron at each pixel, beside a shortcut (figure 4)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(features, features, 7, padding=3, groups=features),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(features, eps=1e-6),
            nn.Linear(features, 4 * features),
            nn.GELU(),
            nn.Linear(4 * features, features),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((features, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * self.block(x)


def convnext_tiny(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ConvNeXt-T (table 9); images of 32x32 or larger."""
    norm = partial(LayerNorm2d, eps=1e-6)
    features = nn.Sequential()
    inputs = channels
    for stage, (depth, feats) in enumerate(zip((3, 3, 9, 3), (96, 192, 384, 768), strict=True)):
        outputs = scaled(feats, width)
        if stage == 0:
            features.append(nn.Sequential(nn.Conv2d(inputs, outputs, 4, stride=4), norm(outputs)))
        else:
            features.append(nn.Sequential(norm(inputs), nn.Conv2d(inputs, outputs, 2, stride=2)))
        features.append(nn.Sequential(*(ConvNeXtBlock(outputs) for _ in range(depth))))
        inputs = outputs
    head = nn.Sequential(norm(inputs), nn.Flatten(), nn.Linear(inputs, classes))
    return named(features=features, avgpool=nn.AdaptiveAvgPool2d(1), classifier=head)
