"""The size space of NATS-Bench."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from netgraft.ir import Graph
from netgraft.spaces.families.nats_size import FAMILY, WIDTHS, members

from .benchmark import Space
from .choices import Choices
from .counted import by_building, checked


def _widths(graph: Graph) -> Iterator[str]:
    """The arch that a graph could be of, read from its two reductions and its classifier."""
    halving = [node for node in graph if node.op == "conv2d" and node.attrs["stride"] == (2, 2)]
    linear = [node for node in graph if node.op == "linear"]
    if len(halving) == 2 and len(linear) == 1:
        first, second = ((graph.input_types(n)[0].concrete()[1], n.attrs["out_channels"]) for n in halving)
        yield ":".join(map(str, (*first, *second, graph.input_types(linear[0])[0].concrete()[1])))


SIZE: Final = Space(
    name="nats-sss",
    about="NATS-Bench's size space: five widths of a fixed cell",
    choices=Choices(
        (tuple(map(str, WIDTHS)),) * 5,
        ":".join,
        checked(FAMILY, lambda arch: tuple(arch.split(":"))),
    ),
    families=(FAMILY,),
    candidates=_widths,
    function=str,
    counts=by_building(FAMILY),
    members=members,
    observed=("valid", 12),
    seconds={"cifar10": 20_000, "cifar100": 40_000, "imagenet16-120": 60_000},
)
