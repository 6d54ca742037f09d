"""NAS-Bench-Macro and FBNet's space: chains of inverted residual blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Final, NamedTuple

from netgraft.ir import Graph
from netgraft.spaces.families.fbnet import DEPTH, FAMILY, LAYERS, STAGES, arch_of, layers_of
from netgraft.spaces.families.nasbench_macro import FAMILY as MACRO_FAMILY
from netgraft.spaces.families.nasbench_macro import LAYERS as MACRO_LAYERS
from netgraft.spaces.families.nasbench_macro import STAGES as MACRO_STAGES
from netgraft.spaces.families.nasbench_macro import canonical

from .benchmark import Space
from .choices import Choices
from .counted import by_building, checked


class _Block(NamedTuple):
    """A layer with weights: a block, or (kernel 1) a projection; the channels that it gives."""

    kernel: int
    expansion: int
    groups: int
    channels: int


def _blocks(graph: Graph) -> list[_Block]:
    """The layers between the first and the last convolution of a chain; empty for what is no chain."""
    convs = [node for node in graph if node.op == "conv2d"]
    found: list[_Block] = []
    rest = iter(convs[1:-1])
    for node in rest:
        own, out = graph.input_types(node)[0].concrete()[1], node.attrs["out_channels"]
        following = convs[convs.index(node) + 1]
        if following.attrs["groups"] == following.attrs["out_channels"] == out:
            next(rest)
            project = next(rest, None)
            if project is None or out % own:
                return []
            kernel = following.attrs["kernel"][0]
            found.append(_Block(kernel, out // own, node.attrs["groups"], project.attrs["out_channels"]))
        else:
            found.append(_Block(1, 1, 1, out))
    return found


def _chain(
    graph: Graph, stages: Sequence[tuple[int, int]], name: Callable[[_Block], str | None], skip: str
) -> list[str] | None:
    """The layers that a graph could be of, where ``stages`` are channels and depth: skips come last in each stage."""
    blocks = _blocks(graph)
    layers: list[str] = []
    for channels, depth in stages:
        names = [name(block) for block in blocks if block.channels == channels]
        if None in names or len(names) > depth:
            return None
        layers += [*(n for n in names if n is not None), *[skip] * (depth - len(names))]
    return layers


_MACRO_CHANNELS: Final = tuple(zip((64, 128, 256), MACRO_STAGES, strict=True))
_MACRO_KINDS: Final = {(3, 3): "1", (5, 6): "2", (1, 1): "0"}


def _macro(graph: Graph) -> Iterator[str]:
    layers = _chain(graph, _MACRO_CHANNELS, lambda block: _MACRO_KINDS.get(block[:2]), "0")
    if layers:
        yield "".join(layers)


MACRO: Final = Space(
    name="nasbench-macro",
    about="NAS-Bench-Macro: eight layers of three kinds",
    choices=Choices(
        (tuple(MACRO_LAYERS),) * sum(MACRO_STAGES),
        "".join,
        checked(MACRO_FAMILY, tuple),
    ),
    families=(MACRO_FAMILY,),
    candidates=_macro,
    function=canonical,
    counts=by_building(MACRO_FAMILY),
    members=lambda: ["".join(digits) for digits in product(MACRO_LAYERS, repeat=sum(MACRO_STAGES))],
    observed=("test", None),
)


def _fbnet_layer(block: _Block) -> str | None:
    groups = f"_g{block.groups}" if block.groups > 1 else ""
    name = "skip" if block.kernel == 1 else f"k{block.kernel}_e{block.expansion}{groups}"
    return name if name in LAYERS else None


def _fbnet(graph: Graph) -> Iterator[str]:
    stages = [(channels, depth) for channels, depth, _ in STAGES]
    layers = _chain(graph, stages, _fbnet_layer, "skip")
    if layers:
        yield arch_of(tuple(layers))


def _fbnet_function(arch: str) -> str:
    """Skips behind the first layer of a stage add nothing, so they may as well come last."""
    layers, start, found = layers_of(arch), 0, []
    for _, depth, _ in STAGES:
        first, *rest = layers[start : start + depth]
        found += [first, *sorted(rest, key="skip".__eq__)]
        start += depth
    return arch_of(tuple(found))


FBNET: Final = Space(
    name="fbnet",
    about="FBNet's space: 22 layers of nine kinds, HW-NAS-Bench's and HELP's second",
    choices=Choices((LAYERS,) * DEPTH, arch_of, layers_of),
    families=(FAMILY,),
    candidates=_fbnet,
    function=_fbnet_function,
    counts=by_building(FAMILY),
    members=None,
    observed=("test", None),
)
