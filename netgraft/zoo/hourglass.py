"""Stacked hourglass: Newell, Yang, Deng, "Stacked Hourglass Networks for Human Pose Estimation", ECCV 2016."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netgraft.zoo.layers import conv_bn, scaled


class Residual(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each behind batch norm and ReLU, and a shortcut (figure 4, left)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = max(1, outputs // 2)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, hidden, 1)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.bn1(x)))
        y = self.conv2(torch.relu(self.bn2(y)))
        return self.conv3(torch.relu(self.bn3(y))) + self.shortcut(x)


class Hourglass(nn.Module):
    """Features at half the size, made by the next smaller hourglass, upsampled and added (figure 3)."""

    def __init__(self, features: int, depth: int) -> None:
        super().__init__()
        self.skip = Residual(features, features)
        self.down = Residual(features, features)
        self.inner = Hourglass(features, depth - 1) if depth > 1 else Residual(features, features)
        self.up = Residual(features, features)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        return self.skip(x) + F.interpolate(y, scale_factor=2.0, mode="nearest")


class Stack(nn.Module):
    """An hourglass and what makes heat maps of its features (figure 4, right)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.hourglass = Hourglass(features, 4)
        self.residual = Residual(features, features)
        self.linear = conv_bn(features, features, 1)
        self.heat = nn.Conv2d(features, classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.linear(self.residual(self.hourglass(x)))
        return x, self.heat(x)


class StackedHourglass(nn.Module):
    """Hourglasses each of which sees the features and the heat maps of the one before (section 3.3)."""

    def __init__(self, channels: int, features: int, stacks: int, classes: int) -> None:
        super().__init__()
        quarter, half = max(1, features // 4), max(1, features // 2)
        self.stem = nn.Sequential(
            conv_bn(channels, quarter, 7, stride=2),
            Residual(quarter, half),
            nn.MaxPool2d(2),
            Residual(half, half),
            Residual(half, features),
        )
        self.stacks = nn.ModuleList(Stack(features, classes) for _ in range(stacks))
        self.merge_features = nn.ModuleList(nn.Conv2d(features, features, 1) for _ in range(stacks - 1))
        self.merge_heat = nn.ModuleList(nn.Conv2d(classes, features, 1) for _ in range(stacks - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        features, heat = self.stacks[0](x)
        maps = [heat]
        for stack, merge_features, merge_heat in zip(
            self.stacks[1:], self.merge_features, self.merge_heat, strict=True
        ):
            x = x + merge_features(features) + merge_heat(heat)
            features, heat = stack(x)
            maps.append(heat)
        return torch.cat(maps, dim=1)


def hourglass(*, classes: int = 10, channels: int = 3, width: float = 1.0, stacks: int = 1) -> nn.Module:
    """A stack of hourglasses for pose; image sizes divisible by 64.

    Gives ``classes`` heat maps, one a joint, for each hourglass in turn, a quarter of the image's size:
    (N, stacks * classes, H / 4, W / 4). The last are the answer; all are trained. The paper's has eight hourglasses
    and, for MPII, 16 joints.
    """
    return StackedHourglass(channels, scaled(256, width), stacks, classes)
