"""Inception (a family that GENNAPE introduced; Mills et al., AAAI 2023): four stages of blocks with one to four paths.

The released sampler draws few operations a path. The network published as the family's best lies outside of what it
can draw, but inside of what another set of its constants, disabled there, allows: :data:`PUBLISHED` draws by those,
with one operation a path at least, which is a guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from netgraft.errors import SourceError
from netgraft.ir import Graph, Value

from .chains import draw_chain
from .family import Family
from .layers import Network

CONVOLUTIONS = (
    "conv3x3",
    "conv5x5",
    "depthwise3x3",
    "depthwise5x5",
    "inception_s3x3",
    "inception_s5x5",
    "inception_p3x3",
    "inception_p5x5",
)
"""The operations that can change the width and the size."""
_POINTWISE = ("conv1x1", "double1x1")
"""Those that can change the width only."""
SUPPORTING = (*_POINTWISE, "avgpool3x3", "maxpool3x3")

WIDTHS = (32, 64, 128, 256)
_LEAST = 16
_COPIES = (2, 6)

_STAGE = re.compile(r"([1-9]\d?)\*(.+)")
_PATH = re.compile(r"([\w+]+):([1-9]\d{0,4})-([1-9]\d{0,4})")


@dataclass(frozen=True)
class Path:
    """A chain of operations: the first one that can change the width gives ``internal`` channels, the last ``out``."""

    ops: tuple[str, ...]
    internal: int
    out: int

    def __str__(self) -> str:
        return f"{'+'.join(self.ops)}:{self.internal}-{self.out}"


@dataclass(frozen=True)
class Stage:
    """``copies`` of a block of parallel paths."""

    copies: int
    paths: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.copies}*{','.join(map(str, self.paths))}"


@dataclass(frozen=True)
class Budget:
    """How many operations a block has at most, and each of its paths at least, by its number of paths from one on."""

    most: tuple[int, int, int, int]
    least: tuple[int, int, int, int]


RELEASED = Budget((3, 4, 8, 10), (1, 1, 2, 2))
PUBLISHED = Budget((4, 8, 12, 16), (1, 1, 1, 1))


def inception(stages: Sequence[Stage]) -> Graph:
    """The network of four stages; SourceError for another number of them, and for paths that make no sense."""
    if len(stages) != len(WIDTHS):
        raise SourceError(f"a network of Inception has {len(WIDTHS)} stages, not {len(stages)}")
    for stage in stages:
        for path in stage.paths:
            _check(path)
    net = Network(eps=1e-3, momentum=0.01, bias=True)
    x = net.unit("stem", net.image, WIDTHS[0], 3, 1, "relu6")
    for number, (stage, width) in enumerate(zip(stages, WIDTHS, strict=True)):
        for copy in range(stage.copies):
            x = _block(net, f"stage{number}.block{copy}", x, stage.paths, width, 2 if number and not copy else 1)
    x = net.unit("last", x, 512, 3, 1, "relu6")
    return net.classify(x, identity=True)


def _check(path: Path) -> None:
    for op in path.ops:
        if op not in CONVOLUTIONS + SUPPORTING:
            raise SourceError(f"Inception has no operation {op!r}; it has: {', '.join(CONVOLUTIONS + SUPPORTING)}")
    if not any(op in CONVOLUTIONS for op in path.ops):
        raise SourceError(f"the path {path} needs one of {', '.join(CONVOLUTIONS)}")
    if len(_capable(path.ops)) == 1 and path.internal != path.out:
        raise SourceError(f"the path {path} has one operation that can change the width, so both widths must be equal")


def _capable(ops: Sequence[str]) -> list[int]:
    """Positions of the operations that can change the width."""
    return [index for index, op in enumerate(ops) if op in CONVOLUTIONS + _POINTWISE]


def _block(net: Network, at: str, x: Value, paths: Sequence[Path], width: int, stride: int) -> Value:
    ends = [_path(net, f"{at}.path{number}", x, path, stride) for number, path in enumerate(paths)]
    y = net.concat(f"{at}.concat", ends)
    if net.channels(y) != width:
        y = net.unit(f"{at}.project", y, width, 1)
    return net.total(f"{at}.add", y, x) if stride == 1 and net.channels(x) == width else y


def _path(net: Network, at: str, x: Value, path: Path, stride: int) -> Value:
    capable = _capable(path.ops)
    first, last = capable[0], capable[-1]
    reducing = next(index for index, op in enumerate(path.ops) if op in CONVOLUTIONS)
    for index, op in enumerate(path.ops):
        width = path.internal if index == first else path.out if index == last else net.channels(x)
        x = _operation(net, f"{at}.{index}", op, x, width, stride if index == reducing else 1)
    return x


def _operation(net: Network, at: str, op: str, x: Value, width: int, stride: int) -> Value:
    kernel = int(op[-1])
    match op[:-3]:
        case "conv":
            return net.unit(at, x, width, kernel, stride, "relu6")
        case "double":
            return net.unit(f"{at}.2", net.unit(f"{at}.1", x, width, 1, 1, "relu6"), width, 1, stride, "relu6")
        case "depthwise":
            if net.channels(x) != width:
                x = net.conv(f"{at}.match", x, width, 1, bias=False)
            return net.unit(at, x, width, kernel, stride, "relu6", groups=width)
        case "inception_s":
            x = net.unit(f"{at}.1", x, width, (1, kernel), (1, stride), "relu6")
            return net.unit(f"{at}.2", x, width, (kernel, 1), (stride, 1), "relu6")
        case "inception_p":
            return _side_by_side(net, at, x, width, kernel, stride)
        case pool:
            return net.norm(f"{at}.bn", net.pool(f"{at}.pool", f"{pool[:3]}_pool2d", x, 3, stride))


def _side_by_side(net: Network, at: str, x: Value, width: int, kernel: int, stride: int) -> Value:
    row, column = (1, kernel), (kernel, 1)
    if stride == 1:
        a = net.unit(f"{at}.a", x, width // 2, row)
        b = net.unit(f"{at}.b", x, width - width // 2, column)
    else:
        a = net.unit(f"{at}.a1", x, width // 2, row, (1, stride))
        a = net.unit(f"{at}.a2", a, width // 2, column, (stride, 1))
        b = net.unit(f"{at}.b1", x, width - width // 2, column, (stride, 1))
        b = net.unit(f"{at}.b2", b, width - width // 2, row, (1, stride))
    return net.add(f"{at}.relu6", "relu6", net.concat(f"{at}.concat", [a, b]))


def draw(rng: np.random.Generator, budget: Budget) -> str:
    """Four stages, independent of each other."""
    return ";".join(str(_draw_stage(rng, width, budget)) for width in WIDTHS)


def _draw_stage(rng: np.random.Generator, width: int, budget: Budget) -> Stage:
    copies = int(rng.integers(_COPIES[0], _COPIES[1] + 1))
    count = int(rng.integers(1, 5))
    if count == 3:
        widths = [2 * (width // 4), width // 4, width // 4 + width % 4]
    else:
        widths = [width // count] * (count - 1) + [width - width // count * (count - 1)]
    rng.shuffle(widths)
    left, least = budget.most[count - 1], budget.least[count - 1]
    paths = []
    for number, out in enumerate(widths):
        length = int(rng.integers(least, left - least * (count - 1 - number) + 1))
        left -= length
        ops = draw_chain(rng, CONVOLUTIONS, SUPPORTING, length)
        out = max(out, _LEAST)
        internal = out
        if len(_capable(ops)) > 1:
            internal = max(int(rng.choice([out // 2, out, 2 * out], p=[0.3, 0.6, 0.1])), _LEAST)
        paths.append(Path(ops, internal, out))
    return Stage(copies, tuple(paths))


def parse(arch: str) -> Graph:
    """The network of a text like ``2*conv3x3:32-32;3*...;...;...``: stages; of each the copies and the paths, with
    commas between them; of each path the operations, the internal and the outgoing channels.
    """
    return inception([_stage(text) for text in arch.split(";")])


def _stage(text: str) -> Stage:
    stage = _STAGE.fullmatch(text)
    paths = [_PATH.fullmatch(path) for path in stage[2].split(",")] if stage else [None]
    found = [Path(tuple(path[1].split("+")), int(path[2]), int(path[3])) for path in paths if path]
    if stage is None or len(found) < len(paths):
        raise SourceError(f"{text!r} is no stage of Inception; write it like 2*conv3x3:16-16,conv5x5+conv1x1:32-16")
    return Stage(int(stage[1]), tuple(found))


def _key(arch: str) -> str:
    """Paths in another order are the same network."""
    stages = (stage.partition("*") for stage in arch.split(";"))
    return ";".join(f"{copies}*{','.join(sorted(paths.split(',')))}" for copies, _, paths in stages)


_PAPER = "Mills et al., AAAI 2023, arXiv:2211.17226"
FAMILY = Family("inception", _PAPER, partial(draw, budget=RELEASED), parse, _key)
FAMILY_PUBLISHED = Family("inception_published", _PAPER, partial(draw, budget=PUBLISHED), parse, _key)
