"""Two-Path (a family that GENNAPE introduced; Mills et al., AAAI 2023): two chains of blocks side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netgraft.errors import SourceError
from netgraft.ir import Graph, Value

from .chains import draw_chain
from .family import Family
from .layers import Network

CONVOLUTIONS = (
    "conv3x3",
    "conv5x5",
    "double3x3",
    "bottleneck-r2-k3",
    "bottleneck-r4-k3",
    "bottleneck-e2-k3",
    "inception_s3x3",
    "inception_s5x5",
)
"""The operations that can change the width and the size."""
SUPPORTING = ("conv1x1", "bottleneck-r2-k1", "bottleneck-e2-k1", "avgpool3x3", "maxpool3x3")

_REDUCTIONS = 2
_BOTTLENECK = re.compile(r"bottleneck-([re])(\d)-k(\d)")


@dataclass(frozen=True)
class Block:
    """A chain of operations; one that ``reduces`` doubles the channels and halves the map, by its first convolution."""

    ops: tuple[str, ...]
    reduces: bool = False

    def __str__(self) -> str:
        return "+".join(self.ops) + ("*" if self.reduces else "")


def two_path(first: Sequence[Block], second: Sequence[Block]) -> Graph:
    """The network of two paths; SourceError for one that does not reduce exactly twice, and for other operations."""
    for path in (first, second):
        _check(path)
    net = Network(eps=1e-3, momentum=0.1)
    stem = net.unit("stem.1", net.image, 32, 3, 1, "relu6")
    stem = net.unit("stem.2", stem, 32, 3, 2, "relu6")
    ends = []
    for number, path in enumerate((first, second), 1):
        x = stem
        for index, block in enumerate(path):
            x = _block(net, f"path{number}.block{index}", x, block)
        ends.append(x)
    x = net.unit("last", net.concat("concat", ends), 512, 3, 1, "relu6")
    return net.classify(x, identity=True)


def _check(path: Sequence[Block]) -> None:
    if sum(block.reduces for block in path) != _REDUCTIONS:
        raise SourceError(f"a path of Two-Path has {_REDUCTIONS} reduction blocks (op*), not as in {_text(path)!r}")
    for block in path:
        for op in block.ops:
            if op not in CONVOLUTIONS + SUPPORTING:
                known = ", ".join(CONVOLUTIONS + SUPPORTING)
                raise SourceError(f"Two-Path has no operation {op!r}; it has: {known}")
        if block.reduces and not any(op in CONVOLUTIONS for op in block.ops):
            raise SourceError(f"the block {block} cannot reduce: it needs one of {', '.join(CONVOLUTIONS)}")


def _block(net: Network, at: str, x: Value, block: Block) -> Value:
    y, reducing = x, block.reduces
    for index, op in enumerate(block.ops):
        width = net.channels(y)
        if reducing and op in CONVOLUTIONS:
            y, reducing = _operation(net, f"{at}.{index}", op, y, 2 * width, 2), False
        else:
            y = _operation(net, f"{at}.{index}", op, y, width, 1)
    return y if block.reduces else net.total(f"{at}.add", x, y)


def _operation(net: Network, at: str, op: str, x: Value, width: int, stride: int) -> Value:
    own, kernel = net.channels(x), int(op[-1])
    if match := _BOTTLENECK.fullmatch(op):
        factor = int(match[2])
        hidden = own * factor if match[1] == "e" else max(1, own // factor)
        return net.unit(f"{at}.2", net.unit(f"{at}.1", x, hidden, kernel, stride), width, kernel)
    match op:
        case "double3x3":
            return net.unit(f"{at}.2", net.unit(f"{at}.1", x, own, 3, stride, "relu6"), width, 3, 1, "relu6")
        case "inception_s3x3" | "inception_s5x5":
            x = net.unit(f"{at}.1", x, width, (1, kernel), stride, "relu6")
            return net.unit(f"{at}.2", x, width, (kernel, 1), 1, "relu6")
        case "avgpool3x3" | "maxpool3x3":
            return net.norm(f"{at}.bn", net.pool(f"{at}.pool", f"{op[:3]}_pool2d", x))
        case _:
            return net.unit(at, x, width, kernel, stride, "relu6")


def draw(rng: np.random.Generator) -> str:
    """Two paths, independent of each other."""
    return ";".join(_text(_draw_path(rng)) for _ in range(2))


def _draw_path(rng: np.random.Generator) -> list[Block]:
    count = int(rng.integers(2, 5))
    reductions = set(rng.choice(count, _REDUCTIONS, replace=False).tolist())
    return [
        Block(draw_chain(rng, CONVOLUTIONS, SUPPORTING, int(rng.integers(1, 4))), index in reductions)
        for index in range(count)
    ]


def _text(path: Sequence[Block]) -> str:
    return ",".join(map(str, path))


def parse(arch: str) -> Graph:
    """The network of a text like ``conv5x5*,conv5x5*;double3x3+conv1x1,conv3x3*,avgpool3x3+conv3x3*``: two paths, their
    blocks, the operations of each, and a star for those that reduce.
    """
    paths = [
        [Block(tuple(block.removesuffix("*").split("+")), block.endswith("*")) for block in path.split(",")]
        for path in arch.split(";")
    ]
    if len(paths) != 2:
        raise SourceError(f"a network of Two-Path has two paths with ; between them, not {len(paths)}")
    return two_path(*paths)


FAMILY = Family("two_path", "Mills et al., AAAI 2023, arXiv:2211.17226", draw, parse)
