"""A first guess at a kernel's time, by counting what it computes and moves: what a table corrects, and falls back on.

A roofline (Williams, Waterman, Patterson, CACM 2009) with the constants of :class:`~netgraft.costs.analytic.Machine`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from netgraft.costs.analytic import CALIBRATED

from .kernels import BLOCK, NAMES, Key

START: Final = 1.5
"""Microseconds for a kernel that computes next to nothing."""
PRODUCT: Final = 6000.0
"""Nanoseconds that a linear layer takes beyond its start, however small it is."""
GROUP: Final = 400.0
"""Nanoseconds for each group of a convolution that is done group by group."""
MOST_RESIDENT: Final = 14
"""Fewer bytes of weights than this power of two make no difference: they fit into every cache."""

# Nanoseconds per element, where they are not as in most operations.
_ELEMENT: Final = {
    "relu": 0.1,
    "add": 0.15,
    "mul": 0.15,
    "sub": 0.15,
    "sigmoid": 0.4,
    "tanh": 0.4,
    "silu": 0.5,
    "gelu": 0.8,
    "hardswish": 0.4,
    "elu": 2.0,
    "prelu": 5.0,
    "softplus": 8.0,
    "mish": 12.0,
    "softmax": 1.5,
    "layer": 0.7,
    "batch": 0.4,
}
_MOST: Final = 0.4
# The same for each element that a pool's window looks at.
_LOOK: Final = {"blocked": 0.04, "plain": 0.2, "global": 0.4}


def guess(key: Key) -> float:
    """Microseconds of one kernel."""
    return START + _work(key) / 1e3


def surroundings(keys: Iterable[Key]) -> int:
    """What the time of kernels with weights depends on beside themselves: how many bytes of weights there are in the
    whole network, as a power of two. Those of a small network stay in the cache from one call to the next.
    """
    return max(MOST_RESIDENT, round(math.log2(1 + sum(_weights(key) for key in keys))))


def features(key: Key, around: int) -> npt.NDArray[np.float64]:
    """What kernels of one kind are alike by: logarithms of their sizes, and flags as they are. ``around`` is what
    :func:`surroundings` says of their network.
    """
    kind, sizes = key
    family = kind.partition(".")[0]
    if family == "conv":
        inputs, filters, groups, _, _, out_height, out_width, rows, columns, stride, dilation, added, activation = sizes
        pixels, taps = out_height * out_width, rows * columns
        logs = [inputs // groups, filters // groups, groups, pixels, out_width, taps, stride, dilation]
        return np.array([*np.log2(1 + np.array(logs)), added, activation, around], np.float64)
    flags = {"mean", "masked", "bias"}
    found = [s if n in flags else np.log2(1 + s) for n, s in zip(NAMES[family].split(), sizes, strict=True)]
    return np.array([*found, around] if family == "linear" else found, np.float64)


def _weights(key: Key) -> int:
    """Bytes of weights that a kernel reads."""
    kind, sizes = key
    match kind.partition(".")[0]:
        case "conv":
            inputs, filters, groups, _, _, _, _, rows, columns, *_ = sizes
            return 4 * (inputs // groups) * filters * rows * columns
        case "linear":
            return 4 * sizes[1] * sizes[2]
        case _:
            return 0


def _work(key: Key) -> float:
    """Nanoseconds."""
    kind, sizes = key
    family, _, way = kind.partition(".")
    what = way.partition(".")[0]
    match family:
        case "conv":
            return _convolution(way, sizes)
        case "pool":
            _, channels, height, width, out_height, out_width, rows, columns, _ = sizes
            looked = channels * out_height * out_width * rows * columns
            each = _LOOK["blocked" if "blocked" in way else "global" if "global" in way else "plain"]
            return looked * each + channels * height * width / CALIBRATED.bandwidth
        case "linear":
            rows, inputs, outputs, _ = sizes
            return PRODUCT + max(
                2 * rows * inputs * outputs / CALIBRATED.matrix, 4 * inputs * outputs / CALIBRATED.weights
            )
        case "matmul":
            batch, rows, inner, columns = sizes
            return 2 * batch * rows * inner * columns / CALIBRATED.matrix
        case "attention":
            heads, queries, keys, width, returned, _ = sizes
            return heads * queries * keys * (2 * (width + returned) / CALIBRATED.matrix + 1.5)
        case "reorder":
            return 0.3 * _padded(sizes[0]) * sizes[1]
        case "norm":
            return _ELEMENT.get(what, _MOST) * sizes[0] * sizes[1]
        case "resize":
            return _MOST * sizes[0] * (sizes[1] + sizes[2])
        case "pointwise":
            return _ELEMENT.get(what, _MOST) * sizes[0]
        case "copy":
            return 0.0 if what in ("reshape", "flatten") else _MOST * sizes[1]
        case _:
            return _MOST * sum(sizes[:2])


def _convolution(way: str, sizes: Sequence[int]) -> float:
    inputs, filters, groups, height, width, out_height, out_width, rows, columns, _, _, added, _ = sizes
    pixels, taps = out_height * out_width, rows * columns
    moved = inputs * height * width + filters * pixels * (1 + added)
    moving = 4 * moved / CALIBRATED.bandwidth
    weights = 4 * inputs // groups * filters * taps / CALIBRATED.weights
    within, out = inputs // groups, filters // groups
    edges = 1 + CALIBRATED.border * min(1.0, 2 * (columns // 2) / out_width)
    match way:
        case "depthwise":
            computing = 2 * pixels * taps * _padded(inputs) / CALIBRATED.depthwise * edges
        case "plain":
            windows = pixels * inputs * taps
            rate = CALIBRATED.plain * out / (out + CALIBRATED.plain_filters)
            computing = (
                GROUP * groups + 2 * windows * out / rate + (8 * windows / CALIBRATED.bandwidth if taps > 1 else 0.0)
            )
        case "transposed":
            computing = 2 * height * width * inputs * out * taps / CALIBRATED.matrix
        case _:
            at_once = min(_padded(out) // BLOCK, 4)
            rate = CALIBRATED.dense * at_once / (at_once + CALIBRATED.blocks)
            read = inputs if way == "direct" else _padded(within)
            computing = 2 * pixels * taps * groups * _padded(out) * read / rate * edges
    return max(computing, weights / 4) + moving


def _padded(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK
