"""RCAN: Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel Attention Networks", ECCV 2018.

Parameters have the names of the authors' code.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from netgraft.zoo.layers import named, scaled


class ChannelAttention(nn.Module):
    """Channels weighted by what a small perceptron makes of their means (figure 3)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = max(1, features // 16)
        self.conv_du = nn.Sequential(
            nn.Conv2d(features, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, features, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(F.adaptive_avg_pool2d(x, 1))


class Residual(nn.Module):
    """A shortcut beside ``body``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _block(features: int) -> nn.Module:
    """A residual block with channel attention (figure 4)."""
    return Residual(
        nn.Sequential(_conv(features, features), nn.ReLU(), _conv(features, features), ChannelAttention(features))
    )


def rcan(*, channels: int = 3, width: float = 1.0, groups: int = 3, blocks: int = 4, scale: int = 2) -> nn.Module:
    """RCAN: images in, images ``scale`` times as large out; ``groups`` residual groups of ``blocks`` blocks (figure 2).

    The paper's has 10 groups of 20 blocks; the default is a small one. By four it upsamples in two steps. The data
    set's mean colour is the caller's to take away and add again.
    """
    features = scaled(64, width)
    body = nn.Sequential()
    for _ in range(groups):
        group = nn.Sequential(*(_block(features) for _ in range(blocks)))
        body.append(Residual(group.append(_conv(features, features))))
    body.append(_conv(features, features))
    upsample = nn.Sequential()
    for factor in (2, 2) if scale == 4 else (scale,):
        upsample.extend((_conv(features, features * factor**2), nn.PixelShuffle(factor)))
    return named(
        head=nn.Sequential(_conv(channels, features)),
        body=Residual(body),
        tail=nn.Sequential(upsample, _conv(features, channels)),
    )
