"""What a predictor sees of a single node: traits that every operation has, known or not, at any size of map.

A node's traits are numbers: what kind of work it does, its window, stride and growth, how wide it is, and at which
scale of the network it works (how often the image was halved since the input). An operation that this table does not
have, and a frozen node, falls into one of a few buckets by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import log2, prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netgraft.ir import OPS, Graph, Node, TensorType
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED

Floats = npt.NDArray[np.float64]

BUCKETS: Final = 4
SCALES: Final = 4
STATES: Final = ("start", "window", "point", "pool")
"""What a path met last: nodes with weights that look at a neighbourhood (or at all of the image, or who knows where),
at a single point, or that pool; at the start none.
"""

_KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("linear", "matmul"), "linear"),
    "attention": "attention",
    **dict.fromkeys(("batch_norm", "group_norm", "layer_norm"), "norm"),
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "prelu", "clamp"), "kink"),
    **dict.fromkeys(("elu", "gelu", "silu", "mish", "hardswish", "softplus"), "smooth"),
    **dict.fromkeys(("sigmoid", "tanh", "hardsigmoid", "softmax", "log_softmax"), "gate"),
    **dict.fromkeys(("sqrt", "pow", "exp", "sub", "div"), "arithmetic"),
    **dict.fromkeys(("dropout", "dropout2d", "drop_path"), "noise"),
    "add": "add",
    "mul": "mul",
    "concat": "concat",
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), "average"),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), "maximum"),
    **dict.fromkeys(("adaptive_avg_pool2d", "mean", "sum"), "reduce"),
    "adaptive_max_pool2d": "reduce",
    **dict.fromkeys(("interpolate", "pixel_shuffle", "pixel_unshuffle"), "resize"),
    **dict.fromkeys(("identity", "constant", "add_scalar", "mul_scalar"), "plain"),
    **dict.fromkeys(("flatten", "reshape", "unflatten_like", "permute", "expand", "split", "slice", "pad"), "plain"),
}
"""The kind of every operation but convolutions; ``plain`` ones leave a path as it was."""

_WINDOWED: Final = frozenset(op for op, definition in OPS.items() if "kernel" in definition.attrs)
"""What reads maps [N, C, sides...] for certain: three axes may be a signal's or those of a sequence [N, length, C]."""

_HEADED: Final = frozenset(("matmul", "attention"))
"""What reads [N, heads, length, C] where it has four axes."""

Base = tuple[int, int, int]
"""What scales are counted from: the largest side of all signals, images and volumes that enter, or 0 for none."""

_PATH: Final = (
    "mixing",
    "spatial",
    "pointwise",
    "depthwise",
    "grouped",
    "transposed",
    *dict.fromkeys(kind for kind in _KINDS.values() if kind != "plain"),
    *(f"unknown{i}" for i in range(BUCKETS)),
    "window",
    "dilation",
    "stride",
    "growth",
    "width",
    *(f"{what}@{scale}" for what in ("mixing", "spatial", "pool") for scale in range(SCALES)),
)
TRAITS: Final = {name: i for i, name in enumerate(_PATH)}
"""Where each trait stands in :attr:`Seen.traits`."""
TOTALS: Final = {
    name: i
    for i, name in enumerate(
        ["nodes", "joined", "flops", "parameters", "activations"]
        + [f"flops@{scale}" for scale in range(SCALES)]
        + [f"units@{scale}" for scale in range(SCALES)]
        + list(_PATH[: TRAITS["window"]])
    )
}
"""Where each sum over all nodes stands in :attr:`Seen.totals`."""
COUNTED: Final = [i for name, i in TOTALS.items() if name.split("@")[0] not in ("flops", "parameters", "activations")]
"""The sums that are small counts; the others are large and are looked at by their logarithm."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A node's ``traits``; what it adds to the network's ``totals``; the state in which it leaves a path (an index of
    :data:`STATES`; None: as it was); whether it is ``dead``: nothing of what it reads is left.
    """

    traits: Floats
    totals: Floats
    state: int | None
    dead: bool


def base_of(graph: Graph) -> Base:
    """What scales are counted from: it follows from the inputs alone, whatever is grafted into the graph."""
    signal, image, volume = (
        max((max(given.type.concrete()[2:]) for given in graph.inputs if given.type.rank == rank), default=0)
        for rank in (3, 4, 5)
    )
    return signal, image, volume


def key_of(graph: Graph, node: Node) -> tuple[Any, ...]:
    """Nodes with equal keys look the same (at one base): what they return follows from it."""
    returns = graph.returns
    return node.op, *node.attrs.values(), *[returns[v.node][v.index] for v in node.inputs]


def look(node: Node, given: Sequence[TensorType], returned: Sequence[TensorType], base: Base) -> Seen:
    """What is seen of a node that reads ``given`` and returns ``returned``, in a network of this ``base``."""
    traits, totals = np.zeros(len(TRAITS)), np.zeros(len(TOTALS))
    x = given[0] if given else None
    out = returned[0] if returned else x
    scale = _scale(node, x, out, base)
    named, state = _named(node, x, out)
    for name, value in named.items():
        traits[TRAITS[name]] = value
    for what, present in (
        ("mixing", traits[TRAITS["mixing"]]),
        ("spatial", traits[TRAITS["spatial"]] + traits[TRAITS["depthwise"]]),
        ("pool", traits[TRAITS["average"]] + traits[TRAITS["maximum"]]),
    ):
        for at, share in scale.items():
            traits[TRAITS[f"{what}@{at}"]] = present * share
    totals[-TRAITS["window"] :] = traits[: TRAITS["window"]]
    totals[TOTALS["nodes"]] = 0.0 if node.op == "identity" else 1.0
    totals[TOTALS["joined"]] = max(0, len(given) - 1)
    flops, parameters = _work(node, given, out)
    totals[TOTALS["flops"]], totals[TOTALS["parameters"]] = flops, parameters
    totals[TOTALS["activations"]] = 0.0 if state is None or out is None else out.numel()
    for at, share in scale.items():
        totals[TOTALS[f"flops@{at}"]] = flops * share
        totals[TOTALS[f"units@{at}"]] = share * (state is not None)
    dead = (node.op == "mul_scalar" and node.attrs["value"] == 0) or node.op == "constant"
    return Seen(traits, totals, state, dead)


def _named(node: Node, x: TensorType | None, out: TensorType | None) -> tuple[dict[str, float], int | None]:
    if node.op in CONVOLUTIONS | TRANSPOSED and x is not None and out is not None:
        return _convolution(node, x, out)
    kind = _KINDS.get(node.op)
    if kind is None:
        name = str(node.attrs.get("target", node.op)) if node.op == "frozen" else node.op
        bucket = blake2b(name.encode(), digest_size=4).digest()[0] % BUCKETS
        return {f"unknown{bucket}": 1.0}, STATES.index("window")
    if kind == "plain":
        return {}, None
    named = {kind: 1.0}
    if kind == "linear":
        return named | {"mixing": 1.0, "pointwise": 1.0} | _sizes(node, x, out), STATES.index("point")
    if kind in ("average", "maximum"):
        kernel, stride = node.attrs["kernel"], node.attrs["stride"]
        if prod(kernel) == 1 and prod(stride) == 1:
            return {}, None
        return named | {"window": _mean_log(kernel), "stride": _mean_log(stride)}, STATES.index("pool")
    if kind == "attention":
        return named | {"mixing": 1.0}, STATES.index("window")
    return named, None


def _convolution(node: Node, x: TensorType, out: TensorType) -> tuple[dict[str, float], int]:
    groups, area = int(node.attrs["groups"]), prod(node.attrs["kernel"])
    channels = int(x.concrete()[1])
    named = {
        "window": _mean_log(node.attrs["kernel"]),
        "dilation": _mean_log(node.attrs["dilation"]),
        "stride": _mean_log(node.attrs["stride"]),
    } | _sizes(node, x, out)
    if node.op in TRANSPOSED:
        named["transposed"] = 1.0
    if groups > 1 and groups == channels:
        return named | {"depthwise": 1.0}, STATES.index("window")
    named["mixing"] = 1.0
    if groups > 1:
        named["grouped"] = 1.0
    if area == 1:
        return named | {"pointwise": 1.0}, STATES.index("point")
    return named | {"spatial": 1.0}, STATES.index("window")


def _mean_log(sizes: Sequence[int]) -> float:
    """The logarithm of a window's mean side: a window of 3, of 3x3 and of 3x3x3 look alike."""
    return log2(prod(sizes)) / len(sizes)


def _sizes(node: Node, x: TensorType | None, out: TensorType | None) -> dict[str, float]:
    """How a layer's width grows, and how wide it is beside 64 channels."""
    if x is None or out is None:
        return {}
    wide, grown = _channels(node, x), _channels(node, out)
    return {"growth": log2(grown / wide), "width": log2(grown / 64) / 4}


def _channels(node: Node, x: TensorType) -> int:
    shape = x.concrete()
    return max(1, int(shape[1] if _is_map(node, x) and node.op != "linear" else shape[-1] if shape else 1))


def _sides(node: Node, x: TensorType) -> Sequence[int]:
    """Those of a map; a linear layer reads maps [N, height, width, C]."""
    shape = x.concrete()
    return shape[1:-1] if node.op == "linear" else shape[2:]


def _is_map(node: Node, x: TensorType) -> bool:
    return node.op in _WINDOWED or (x.rank == 4 and node.op not in _HEADED)


def _scale(node: Node, x: TensorType | None, out: TensorType | None, base: Base) -> dict[int, float]:
    """How often the map was halved, shared out between the two nearest whole numbers; maps of size 1 have none."""
    maps = [t for t in (x, out) if t is not None and _is_map(node, t)]
    side = max((max(_sides(node, t)) for t in maps), default=0)
    entered = base[maps[0].rank - 3] if maps else 0
    if not entered or side <= 1:
        return {}
    halved = min(max(log2(entered / side), 0.0), SCALES - 1.0)
    low = int(halved)
    return {low: 1.0 - (halved - low)} | ({low + 1: halved - low} if halved > low else {})


def _work(node: Node, given: Sequence[TensorType], out: TensorType | None) -> tuple[float, float]:
    """Multiply-accumulates and trained parameters."""
    roles = node.definition.weights(given, node.attrs)
    parameters = float(sum(type_.numel() for role, type_ in roles.items() if node.trains(role)))
    if out is None or "weight" not in roles or node.op not in CONVOLUTIONS | TRANSPOSED | {"linear"}:
        return 0.0, parameters
    places = given[0] if node.op in TRANSPOSED else out
    return places.numel() / _channels(node, places) * roles["weight"].numel(), parameters
