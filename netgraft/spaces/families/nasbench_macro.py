"""NAS-Bench-Macro (Su et al., CVPR 2021, arXiv:2103.11922): eight layers one after another, each one of three.

Inverted residual blocks (Sandler et al., CVPR 2018) without SE, with ReLU, in three stages of 2, 3 and 3 layers; the
first layer of a stage halves the map and doubles the width.
"""

from __future__ import annotations

import re
from itertools import product

import numpy as np

from netgraft.errors import SourceError
from netgraft.ir import Graph, Value

from .family import Family
from .layers import Network

LAYERS = {"0": "identity", "1": "MB3_K3", "2": "MB6_K5"}
"""What a digit of an arch stands for: MBe_Kk expands e times, and its depthwise convolution has a kernel of k x k."""

STAGES = (2, 3, 3)
_WIDTH, _LAST = 32, 1280
_BLOCKS = {"1": (3, 3), "2": (6, 5)}


def nasbench_macro(arch: str) -> Graph:
    """The network of an arch such as ``02012100``, as the benchmark trained it for CIFAR-10.

    An identity that changes the shape is a 1x1 convolution with batch norm; any other adds nothing. SourceError for
    what is no arch.
    """
    if not re.fullmatch(r"[012]{8}", arch):
        meanings = ", ".join(f"{digit} {layer}" for digit, layer in LAYERS.items())
        raise SourceError(f"{arch!r} is no network of NAS-Bench-Macro; write eight digits like 02012100 ({meanings})")
    net = Network(eps=1e-5, momentum=0.1)
    x = net.unit("stem", net.image, _WIDTH, 3, activation="relu")
    layers = iter(arch)
    for stage, depth in enumerate(STAGES):
        for number in range(depth):
            at, layer, first = f"stage{stage}.layer{number}", next(layers), number == 0
            if layer in _BLOCKS:
                x = _block(net, at, x, first, *_BLOCKS[layer])
            elif first:
                x = net.unit(at, x, 2 * net.channels(x), 1, 2)
    return net.classify(net.unit("last", x, _LAST, 1, activation="relu"), identity=False)


def _block(net: Network, at: str, x: Value, reduces: bool, expansion: int, kernel: int) -> Value:
    width = net.channels(x)
    y = net.unit(f"{at}.expand", x, expansion * width, 1, activation="relu")
    y = net.unit(f"{at}.depthwise", y, expansion * width, kernel, 2 if reduces else 1, "relu", groups=expansion * width)
    y = net.unit(f"{at}.project", y, 2 * width if reduces else width, 1)
    return y if reduces else net.total(f"{at}.add", y, x)


def canonical(arch: str) -> str:
    """The arch that the benchmark trained in place of this one: behind the first layer of a stage, identities come
    last. Of the 6,561 archs 3,969 are different networks.
    """
    found, start = "", 0
    for depth in STAGES:
        first, rest = arch[start], arch[start + 1 : start + depth].replace("0", "")
        found += (first + rest).ljust(depth, "0")
        start += depth
    return found


def draw(rng: np.random.Generator) -> str:
    """Eight independent uniform draws."""
    return "".join(str(digit) for digit in rng.integers(len(LAYERS), size=sum(STAGES)))


def _members() -> list[str]:
    archs = ("".join(digits) for digits in product(LAYERS, repeat=sum(STAGES)))
    return [arch for arch in archs if canonical(arch) == arch]


FAMILY = Family(
    "nasbench_macro",
    "Su et al., CVPR 2021, arXiv:2103.11922",
    draw,
    nasbench_macro,
    key=canonical,
    size=len(_members()),
    members=_members,
)
