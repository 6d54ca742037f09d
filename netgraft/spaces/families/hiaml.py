"""HiAML (the family that GENNAPE introduced; Mills et al., AAAI 2023): four stages of two equal blocks of 14 types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np

from netgraft.errors import SourceError
from netgraft.ir import Graph, Value

from .family import Family
from .layers import Network

# Output channels and first stride of the stages.
_STAGES = ((64, 1), (128, 2), (128, 1), (256, 2))


def hiaml(types: Sequence[str]) -> Graph:
    """The network whose four stages have blocks of these types, ``("src1", "src1", "r30", "src3")`` for example.

    GENNAPE's own spelling, ``hiaml_src1``, is understood too. SourceError for other types, or not four.
    """
    names = [name.removeprefix("hiaml_") for name in types]
    for name in names:
        if name not in BLOCKS:
            raise SourceError(f"HiAML has no block {name!r}; it has: {', '.join(BLOCKS)}")
    if len(names) != len(_STAGES):
        raise SourceError(f"a network of HiAML has {len(_STAGES)} types of blocks, not {len(names)}")
    net = Network(eps=1e-3, momentum=0.1)
    x = net.unit("stem", net.image, 64, 3, 2, "relu")
    for stage, (name, (channels, stride)) in enumerate(zip(names, _STAGES, strict=True)):
        for number in range(2):
            block = _Block(net, f"stage{stage}.block{number}", x, channels, 1 if number else stride)
            x = net.add(f"{block.at}.out", "relu", BLOCKS[name](block))
    return net.classify(x, identity=False)


class _Block:
    """A block in the making: its input ``x``, and layers with ids of their own."""

    def __init__(self, net: Network, at: str, x: Value, channels: int, stride: int) -> None:
        self.net, self.at, self.x, self.channels, self.stride = net, at, x, channels, stride
        self._count = 0

    def _id(self) -> str:
        self._count += 1
        return f"{self.at}.{self._count}"

    def conv(
        self, x: Value, kernel: int, activation: str | None = None, *, reduces: bool = False, keeps: bool = False
    ) -> Value:
        """A convolution with batch norm to the block's width, or (``keeps``) its input's; ``reduces`` by its stride."""
        channels = self.net.channels(self.x) if keeps else self.channels
        return self.net.unit(self._id(), x, channels, kernel, self.stride if reduces else 1, activation)

    def split(self, x: Value, *, reduces: bool = False) -> Value:
        """1x3 and 3x1, the first with the block's stride if it ``reduces``."""
        x = self.net.unit(self._id(), x, self.channels, (1, 3), self.stride if reduces else 1, "relu6")
        return self.net.unit(self._id(), x, self.channels, (3, 1), 1, "relu6")

    def project(self) -> Value:
        """The input, by a projection of its own where its shape is another."""
        if self.stride == 1 and self.net.channels(self.x) == self.channels:
            return self.x
        return self.conv(self.x, 1, reduces=True)

    def total(self, *terms: Value) -> Value:
        """Their sum."""
        return self.net.total(f"{self._id()}.add", *terms)


def _z(b: _Block) -> Value:
    a = b.conv(b.x, 3, "relu", reduces=True)
    return b.total(a, b.split(a))


def _a22(b: _Block) -> Value:
    a = b.conv(b.x, 3, "relu", reduces=True)
    return b.total(a, b.conv(b.conv(a, 1, "relu"), 1))


def _b23(b: _Block) -> Value:
    return b.total(b.project(), b.split(b.split(b.x, reduces=True)))


def _j30(b: _Block) -> Value:
    return b.total(b.project(), b.split(b.conv(b.x, 3, "relu", reduces=True)))


def _g30(b: _Block) -> Value:
    a = b.split(b.x, reduces=True)
    return b.total(a, b.conv(b.split(b.total(b.project(), a)), 1))


def _r30(b: _Block) -> Value:
    a = b.split(b.x, reduces=True)
    c = b.split(a)
    return b.total(b.project(), b.conv(b.total(b.project(), a), 1), c)


def _l20(b: _Block) -> Value:
    return b.conv(b.conv(b.x, 3, "relu", reduces=True), 1)


def _t20(b: _Block) -> Value:
    return b.total(b.conv(b.x, 1, reduces=True), b.split(b.x, reduces=True))


def _t31(b: _Block) -> Value:
    second = b.conv(b.split(b.x, reduces=True), 1, "relu")
    third = b.split(b.total(b.project(), second))
    return b.total(b.project(), second, third)


def _src0(b: _Block) -> Value:
    a = b.conv(b.x, 1, "relu", reduces=True)
    return b.total(a, b.conv(b.conv(a, 3, "relu"), 3))


def _src1(b: _Block) -> Value:
    a = b.conv(b.x, 1, "relu", reduces=True)
    return b.total(a, b.conv(b.conv(b.x, 3, "relu", keeps=True), 3, reduces=True))


def _src3(b: _Block) -> Value:
    a = b.conv(b.x, 1, reduces=True)
    return b.total(a, b.conv(b.conv(b.conv(b.x, 1, "relu", keeps=True), 3, "relu", reduces=True), 1))


def _src7(b: _Block) -> Value:
    a = b.conv(b.x, 1, reduces=True)
    return b.total(a, b.split(b.split(a)))


def _src8(b: _Block) -> Value:
    a = b.conv(b.x, 1, reduces=True)
    return b.total(a, b.conv(b.split(a), 1))


BLOCKS: Mapping[str, Callable[[_Block], Value]] = {
    "z": _z,
    "a22": _a22,
    "b23": _b23,
    "j30": _j30,
    "g30": _g30,
    "r30": _r30,
    "l20": _l20,
    "t20": _t20,
    "t31": _t31,
    "src0": _src0,
    "src1": _src1,
    "src3": _src3,
    "src7": _src7,
    "src8": _src8,
}
"""The blocks before their last ReLU."""


def draw(rng: np.random.Generator) -> str:
    """Four independent uniform draws."""
    kinds = tuple(BLOCKS)
    return ",".join(kinds[i] for i in rng.integers(len(kinds), size=len(_STAGES)))


def parse(arch: str) -> Graph:
    """The network of a text like ``src1,src1,r30,src3``."""
    return hiaml(arch.split(","))


def _members() -> list[str]:
    return [",".join(types) for types in product(BLOCKS, repeat=len(_STAGES))]


FAMILY = Family(
    "hiaml",
    "Mills et al., AAAI 2023, arXiv:2211.17226",
    draw,
    parse,
    size=len(BLOCKS) ** len(_STAGES),
    members=_members,
)
