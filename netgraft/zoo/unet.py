"""U-Net: Ronneberger, Fischer, Brox, "Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from netgraft.zoo.layers import conv_bn, scaled


def _two_convs(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_bn(inputs, outputs, 3), conv_bn(outputs, outputs, 3))


class UNet(nn.Module):
    """A contracting path, and an expanding one that sees the features of the same size again (figure 1)."""

    def __init__(self, channels: int, features: list[int], classes: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(_two_convs(i, o) for i, o in pairwise([channels, *features]))
        self.pool = nn.MaxPool2d(2)
        pairs = list(pairwise(reversed(features)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
        self.merge = nn.ModuleList(_two_convs(2 * o, o) for _, o in pairs)
        self.head = nn.Conv2d(features[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for level, convs in enumerate(self.down):
            x = convs(self.pool(x) if level else x)
            seen.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(seen[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


def unet(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """U-Net; a map of ``classes`` scores for each pixel, image sizes divisible by 16.

    Convolutions are padded, so that the map is as large as the image, and followed by batch norm; the paper's are not.
    """
    return UNet(channels, [scaled(f, width) for f in (64, 128, 256, 512, 1024)], classes)
