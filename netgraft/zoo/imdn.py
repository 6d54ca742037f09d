"""IMDN: Hui, Gao, Yang, Wang, "Lightweight Image Super-Resolution with Information Multi-distillation Network", 2019.

ACM Multimedia 2019. Parameters have the names of the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netgraft.zoo.layers import scaled


class ContrastAttention(nn.Module):
    """Squeeze-and-excitation that sees each channel's standard deviation besides its mean (section 3.3)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = max(1, features // 16)
        self.conv_du = nn.Sequential(
            nn.Conv2d(features, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, features, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        deviation = (x - mean).pow(2).mean((2, 3), keepdim=True).sqrt()
        return x * self.conv_du(deviation + mean)


class Distillation(nn.Module):
    """Keeps a quarter of the channels and refines the rest, three times; attention, and a shortcut (figure 3)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.kept = features // 4
        self.rest = features - self.kept
        self.c1 = nn.Conv2d(features, features, 3, padding=1)
        self.c2 = nn.Conv2d(self.rest, features, 3, padding=1)
        self.c3 = nn.Conv2d(self.rest, features, 3, padding=1)
        self.c4 = nn.Conv2d(self.rest, self.kept, 3, padding=1)
        self.cca = ContrastAttention(4 * self.kept)
        self.c5 = nn.Conv2d(4 * self.kept, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        distilled = []
        y = x
        for conv in (self.c1, self.c2, self.c3):
            kept, y = torch.split(F.leaky_relu(conv(y), 0.05), [self.kept, self.rest], dim=1)
            distilled.append(kept)
        return x + self.c5(self.cca(torch.cat([*distilled, self.c4(y)], dim=1)))


class IMDN(nn.Module):
    """Distillation blocks one after the other, all of whose outputs are merged, and upsampling (figure 2)."""

    def __init__(self, channels: int, features: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.fea_conv = nn.Conv2d(channels, features, 3, padding=1)
        self.blocks = [f"IMDB{i + 1}" for i in range(blocks)]
        for name in self.blocks:
            self.add_module(name, Distillation(features))
        self.c = nn.Sequential(nn.Conv2d(blocks * features, features, 1), nn.LeakyReLU(0.05))
        self.LR_conv = nn.Conv2d(features, features, 3, padding=1)
        self.upsampler = nn.Sequential(nn.Conv2d(features, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        x = y = self.fea_conv(x)
        outputs = []
        for name in self.blocks:
            y = self.get_submodule(name)(y)
            outputs.append(y)
        return self.upsampler(x + self.LR_conv(self.c(torch.cat(outputs, dim=1))))


def imdn(*, channels: int = 3, width: float = 1.0, blocks: int = 6, scale: int = 2) -> nn.Module:
    """IMDN: images in, images ``scale`` times as large out. Features are 64 times ``width``, in multiples of four."""
    return IMDN(channels, 4 * scaled(16, width), blocks, scale)
