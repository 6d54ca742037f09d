"""The size space of NATS-Bench (Dong et al., TPAMI 2021, arXiv:2009.00437): one fixed cell, five free widths.

The layers are a stem, a cell, a residual reduction, a cell, a residual reduction and a cell. The five widths are those
of the stem, first reduction, second cell, second reduction and last cell, as the benchmark's code has it; its
description attributes them differently, but only this reading gives the published parameters and multiply-accumulates.
"""

from __future__ import annotations

import re
from itertools import product

import numpy as np

from netgraft.errors import SourceError
from netgraft.ir import Graph, Value

from .family import Family
from .layers import Network
from .nasbench201 import cell, operations, residual_reduction

WIDTHS = tuple(range(8, 65, 8))
"""What a width can be."""

_LAYERS = 5
_CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def nats_size(arch: str) -> Graph:
    """The network of widths like ``8:8:8:16:32``, as the benchmark trained it for CIFAR-10; SourceError for others."""
    if not re.fullmatch(r"\d+(:\d+){4}", arch) or not {int(width) for width in arch.split(":")} <= set(WIDTHS):
        allowed = ", ".join(map(str, WIDTHS))
        raise SourceError(
            f"{arch!r} is no network of NATS-Bench's size space; write five widths of {allowed} like 8:8:8:16:32"
        )
    first, *rest = (int(width) for width in arch.split(":"))
    net = Network(eps=1e-5, momentum=0.1)
    x = net.norm("stem.bn", net.conv("stem.conv", net.image, first, 3))
    x = _cell(net, "cell0", x, first)
    for stage, (reduced, width) in enumerate((rest[:2], rest[2:]), 1):
        x = residual_reduction(net, f"reduce{stage}", x, reduced)
        x = _cell(net, f"cell{stage}", x, width)
    x = net.add("last.relu", "relu", net.norm("last.bn", x))
    return net.classify(x, identity=False)


def _cell(net: Network, at: str, x: Value, width: int) -> Value:
    def convolution(net: Network, at: str, x: Value, kernel: int = 3) -> Value:
        return net.unit(at, net.add(f"{at}.relu", "relu", x), width, kernel)

    def skip(net: Network, at: str, x: Value) -> Value:
        if net.channels(x) == width:
            return net.add(f"{at}.identity", "identity", x)
        return convolution(net, at, x, 1)

    return cell(net, at, x, operations(_CELL), {"nor_conv_3x3": convolution, "skip_connect": skip})


def draw(rng: np.random.Generator) -> str:
    """Five independent uniform draws."""
    return ":".join(str(WIDTHS[i]) for i in rng.integers(len(WIDTHS), size=_LAYERS))


def members() -> list[str]:
    """All 32,768 archs; the position is the architecture's index in the benchmark."""
    return [":".join(map(str, widths)) for widths in product(WIDTHS, repeat=_LAYERS)]


FAMILY = Family(
    "nats_size",
    "Dong et al., TPAMI 2021, arXiv:2009.00437",
    draw,
    nats_size,
    size=len(WIDTHS) ** _LAYERS,
    members=members,
)
