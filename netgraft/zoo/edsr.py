"""EDSR: Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPRW 2017."""

from __future__ import annotations

from torch import Tensor, nn

from netgraft.zoo.layers import scaled


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, without batch norm (figure 2c)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1), nn.ReLU(), nn.Conv2d(features, features, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class EDSR(nn.Module):
    """Residual blocks at the low resolution, then upsampling by pixel shuffle (figure 3)."""

    def __init__(self, channels: int, features: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)))
        self.body.append(nn.Conv2d(features, features, 3, padding=1))
        self.upsample = nn.Sequential(
            nn.Conv2d(features, features * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
            nn.Conv2d(features, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.upsample(x + self.body(x))


def edsr(*, channels: int = 3, width: float = 1.0, blocks: int = 16, scale: int = 2) -> nn.Module:
    """The baseline EDSR (table 1): images in, images ``scale`` times as large out.

    Upsamples in one step also by four, where the paper takes two by two. The data set's mean colour is the caller's
    to take away and add again.
    """
    return EDSR(channels, scaled(64, width), blocks, scale)
