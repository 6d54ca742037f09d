"""FSRCNN: Dong, Loy, Tang, "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016."""

from __future__ import annotations

from torch import nn

from netgraft.zoo.layers import named, scaled


def fsrcnn(*, channels: int = 3, width: float = 1.0, layers: int = 4, scale: int = 2) -> nn.Module:
    """FSRCNN(56, 12, m) with m = ``layers``: images in, images ``scale`` times as large out (section 3.2).

    The paper's takes one channel, the luma.
    """
    features, shrunk = scaled(56, width), scaled(12, width)
    middle = nn.Sequential(nn.Conv2d(features, shrunk, 1), nn.PReLU(shrunk))
    for _ in range(layers):
        middle.extend((nn.Conv2d(shrunk, shrunk, 3, padding=1), nn.PReLU(shrunk)))
    middle.extend((nn.Conv2d(shrunk, features, 1), nn.PReLU(features)))
    return named(
        first_part=nn.Sequential(nn.Conv2d(channels, features, 5, padding=2), nn.PReLU(features)),
        mid_part=middle,
        last_part=nn.ConvTranspose2d(features, channels, 9, scale, padding=4, output_padding=scale - 1),
    )
