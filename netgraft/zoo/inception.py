"""Inception-v3: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture", CVPR 2016.

As its authors released it, without the auxiliary classifier. Parameters have torchvision's names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netgraft.zoo.layers import named, scaled

# Output channels, height and width of the kernel; two of them side by side where a branch forks.
Filter = tuple[int, int, int]
Branches = Mapping[str, Sequence[tuple[Filter, ...]]]


class Conv(nn.Module):
    """Convolution, batch norm and ReLU. It keeps the image size, or if it is ``valid`` pads nothing."""

    def __init__(self, inputs: int, filter_: Filter, stride: int = 1, *, valid: bool = False) -> None:
        super().__init__()
        outputs, height, width = filter_
        padding = (0, 0) if valid else (height // 2, width // 2)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Chains of convolutions side by side, concatenated (figures 5 to 7, 10).

    The chain ``branch_pool`` reads a 3x3 pooling. With a stride of 2 that takes the maximum, and the last convolution
    of each chain has the stride too.
    """

    def __init__(self, inputs: int, branches: Branches, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.outputs = stride, 0
        self.chains: dict[str, list[list[str]]] = {}
        for branch, steps in branches.items():
            chain, features = self.chains.setdefault(branch, []), inputs
            for index, filters in enumerate(steps, start=1):
                name = branch if len(steps) == 1 else f"{branch}_{index}"
                names = [name] if len(filters) == 1 else [f"{name}{letter}" for letter in "ab"]
                strided = stride == 2 and index == len(steps)
                for each, filter_ in zip(names, filters, strict=True):
                    self.add_module(each, Conv(features, filter_, stride if strided else 1, valid=strided))
                chain.append(names)
                features = sum(outputs for outputs, _, _ in filters)
            self.outputs += features

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 3, stride=1, padding=1) if self.stride == 1 else F.max_pool2d(x, 3, stride=2)
        outputs = []
        for branch, chain in self.chains.items():
            y = pooled if branch == "branch_pool" else x
            for names in chain:
                parts = [self.get_submodule(name)(y) for name in names]
                y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            outputs.append(y)
        return torch.cat(outputs, dim=1)


_DOUBLE = [((64, 1, 1),), ((96, 3, 3),), ((96, 3, 3),)]


def _at_35(pool: int) -> Branches:
    """Figure 5, on maps of 35x35."""
    five = [((48, 1, 1),), ((64, 5, 5),)]
    return {"branch1x1": [((64, 1, 1),)], "branch5x5": five, "branch3x3dbl": _DOUBLE, "branch_pool": [((pool, 1, 1),)]}


def _at_17(inner: int) -> Branches:
    """Figure 6, on maps of 17x17."""
    one, wide, tall = ((inner, 1, 1),), ((inner, 1, 7),), ((inner, 7, 1),)
    return {
        "branch1x1": [((192, 1, 1),)],
        "branch7x7": [one, wide, ((192, 7, 1),)],
        "branch7x7dbl": [one, tall, wide, tall, ((192, 1, 7),)],
        "branch_pool": [((192, 1, 1),)],
    }


_FORK = ((384, 1, 3), (384, 3, 1))
_AT_8: Branches = {
    "branch1x1": [((320, 1, 1),)],
    "branch3x3": [((384, 1, 1),), _FORK],
    "branch3x3dbl": [((448, 1, 1),), ((384, 3, 3),), _FORK],
    "branch_pool": [((192, 1, 1),)],
}
"""Figure 7, on maps of 8x8."""
_TO_17: Branches = {"branch3x3": [((384, 3, 3),)], "branch3x3dbl": _DOUBLE, "branch_pool": []}
_TO_8: Branches = {
    "branch3x3": [((192, 1, 1),), ((320, 3, 3),)],
    "branch7x7x3": [((192, 1, 1),), ((192, 1, 7),), ((192, 7, 1),), ((192, 3, 3),)],
    "branch_pool": [],
}
# Table 1, with the names and widths of the released network.
_MIXED = {
    "Mixed_5b": (_at_35(32), 1),
    "Mixed_5c": (_at_35(64), 1),
    "Mixed_5d": (_at_35(64), 1),
    "Mixed_6a": (_TO_17, 2),
    "Mixed_6b": (_at_17(128), 1),
    "Mixed_6c": (_at_17(160), 1),
    "Mixed_6d": (_at_17(160), 1),
    "Mixed_6e": (_at_17(192), 1),
    "Mixed_7a": (_TO_8, 2),
    "Mixed_7b": (_AT_8, 1),
    "Mixed_7c": (_AT_8, 1),
}


def _scaled(branches: Branches, width: float) -> Branches:
    return {
        name: [tuple((scaled(f, width), kh, kw) for f, kh, kw in filters) for filters in steps]
        for name, steps in branches.items()
    }


def inception_v3(*, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """Inception-v3 for images of 299x299, at least 75x75."""
    a, b, c, features = (scaled(f, width) for f in (32, 64, 80, 192))
    net: dict[str, nn.Module] = {
        "Conv2d_1a_3x3": Conv(channels, (a, 3, 3), 2, valid=True),
        "Conv2d_2a_3x3": Conv(a, (a, 3, 3), valid=True),
        "Conv2d_2b_3x3": Conv(a, (b, 3, 3)),
        "maxpool1": nn.MaxPool2d(3, stride=2),
        "Conv2d_3b_1x1": Conv(b, (c, 1, 1)),
        "Conv2d_4a_3x3": Conv(c, (features, 3, 3), valid=True),
        "maxpool2": nn.MaxPool2d(3, stride=2),
    }
    for name, (branches, stride) in _MIXED.items():
        net[name] = mixed = Mixed(features, _scaled(branches, width), stride)
        features = mixed.outputs
    net |= {"avgpool": nn.AdaptiveAvgPool2d(1), "dropout": nn.Dropout(0.5), "flatten": nn.Flatten()}
    return named(**net, fc=nn.Linear(features, classes))
