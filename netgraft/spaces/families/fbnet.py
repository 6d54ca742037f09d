"""FBNet's space (Wu et al., CVPR 2019, arXiv:1812.03443) as measured by HW-NAS-Bench (Li et al., ICLR 2021).

22 layers one after another, each one of nine: inverted residual blocks (1x1, depthwise, 1x1, with ReLU) of two kernels
and four expansions, or a skip. It follows HW-NAS-Bench's released code, which departs from the paper's space: blocks
with groups shuffle their channels after the first convolution only, and strides and head are those for CIFAR-100.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from netgraft.errors import SourceError
from netgraft.ir import Graph, Value

from .family import Family
from .layers import Network

LAYERS: Final = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
"""What a layer can be: kernel, expansion and groups of a block, or a skip. A number of an arch is a place in here."""

STAGES: Final = ((16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
"""Channels, number of layers and stride of the first layer of each stage."""

DEPTH: Final = sum(layers for _, layers, _ in STAGES)
_STEM, _HEAD, _CLASSES = 16, 1504, 100


def fbnet(arch: str) -> Graph:
    """The network of an arch: 22 numbers from 0 to 8 with spaces between them; SourceError for other texts.

    A skip that changes the shape is a 1x1 convolution with batch norm and ReLU; any other adds nothing.
    """
    layers = iter(layers_of(arch))
    net = Network(eps=1e-5, momentum=0.1)
    x = net.unit("stem", net.image, _STEM, 3, activation="relu")
    for stage, (channels, depth, first) in enumerate(STAGES):
        for number in range(depth):
            x = _layer(net, f"stage{stage}.layer{number}", x, next(layers), channels, 1 if number else first)
    return net.classify(net.unit("head", x, _HEAD, 1, activation="relu"), identity=False, classes=_CLASSES)


def layers_of(arch: str) -> tuple[str, ...]:
    """The names of an arch's layers; SourceError where it is none."""
    numbers = arch.split()
    if len(numbers) != DEPTH or not set(numbers) <= {str(i) for i in range(len(LAYERS))}:
        meanings = ", ".join(f"{i} {layer}" for i, layer in enumerate(LAYERS))
        raise SourceError(f"{arch!r} is no network of FBNet's space; write {DEPTH} numbers with spaces ({meanings})")
    return tuple(LAYERS[int(number)] for number in numbers)


def arch_of(layers: tuple[str, ...]) -> str:
    """The arch whose layers have these names."""
    return " ".join(str(LAYERS.index(layer)) for layer in layers)


def _layer(net: Network, at: str, x: Value, layer: str, channels: int, stride: int) -> Value:
    own = net.channels(x)
    keeps = stride == 1 and channels == own
    if layer == "skip":
        return x if keeps else net.unit(at, x, channels, 1, stride, "relu")
    kernel, expansion, *grouped = (int(part[1:]) for part in layer.split("_"))
    groups, hidden = grouped[0] if grouped else 1, own * expansion
    y = net.unit(f"{at}.expand", x, hidden, 1, activation="relu", groups=groups)
    if groups > 1:
        y = net.shuffle(f"{at}.shuffle", y, groups)
    y = net.unit(f"{at}.depthwise", y, hidden, kernel, stride, "relu", groups=hidden)
    y = net.unit(f"{at}.project", y, channels, 1, groups=groups)
    return net.total(f"{at}.add", y, x) if keeps else y


def draw(rng: np.random.Generator) -> str:
    """Independent uniform draws."""
    return " ".join(str(number) for number in rng.integers(len(LAYERS), size=DEPTH))


FAMILY = Family("fbnet", "Wu et al., CVPR 2019, arXiv:1812.03443; Li et al., ICLR 2021, arXiv:2103.10584", draw, fbnet)
