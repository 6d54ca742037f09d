"""DnCNN: Zhang et al., "Beyond a Gaussian Denoiser", IEEE Transactions on Image Processing 2017."""

from __future__ import annotations

from torch import Tensor, nn

from netgraft.zoo.layers import scaled


class DnCNN(nn.Module):
    """Convolutions that find the noise, which is taken away (figure 1). Parameters have the authors' names."""

    def __init__(self, channels: int, features: int, depth: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(channels, features, 3, padding=1), nn.ReLU())
        for _ in range(depth - 2):
            conv = nn.Conv2d(features, features, 3, padding=1, bias=False)
            self.model.extend((conv, nn.BatchNorm2d(features), nn.ReLU()))
        self.model.append(nn.Conv2d(features, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.model(x)


def dncnn(*, channels: int = 3, width: float = 1.0, depth: int = 17) -> nn.Module:
    """DnCNN of ``depth`` convolutions: noisy images in, clean images out. The paper's takes one channel."""
    return DnCNN(channels, scaled(64, width), depth)
