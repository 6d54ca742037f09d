"""Whose time it is: onnxruntime's kernels and ours, matched by the names that the written ONNX carries."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from netgraft.costs.measured.profile import Part
from netgraft.ir import Graph

from .kernels import kernels
from .observed import Row


@dataclass(frozen=True)
class Attribution:
    """The kernels of a graph with their times, and what could not be matched."""

    rows: tuple[Row, ...]
    """In the order of :func:`~.kernels.kernels`; those that onnxruntime was not seen to run have 0 runs."""
    strange: tuple[Part, ...]
    """What onnxruntime ran beyond them."""


def attribute(graph: Graph, parts: Iterable[Part]) -> Attribution:
    """Share out what onnxruntime ran among the kernels that it is taken to make of the graph."""
    found = kernels(graph)
    places: dict[tuple[str, str], int] = {}
    for place, kernel in enumerate(found):
        way = kernel.kind.removeprefix("reorder.") if kernel.kind.startswith("reorder.") else ""
        for node in kernel.nodes:
            places[way, node] = place
    called = {f"output{i}" if len(graph.outputs) > 1 else "output": str(v) for i, v in enumerate(graph.outputs)}
    sums: dict[int, float] = defaultdict(float)
    counts: dict[int, int] = defaultdict(int)
    strange = []
    for part in parts:
        match part.operation:
            case "ReorderOutput":
                way, names = "out", part.outputs
            case "ReorderInput":
                way, names = "in", part.inputs[:1]
            case _:
                way, names = "", (part.name, *part.outputs)
        at = next(
            (
                places[way, known]
                for text in names
                for name in _names(text)
                for known in (name, called.get(name, ""))
                if (way, known) in places
            ),
            None,
        )
        if at is None:
            strange.append(part)
        else:
            sums[at] += part.microseconds
            counts[at] += 1
    rows = (Row(k.kind, k.sizes, round(sums[place], 3), counts[place]) for place, k in enumerate(found))
    return Attribution(tuple(rows), tuple(strange))


def _names(text: str) -> Iterable[str]:
    """What the node of a graph may be called whose name onnxruntime has made longer."""
    text = re.sub(r"_token_\d+$", "", text.removeprefix("fused "))
    for name in (text, text.removesuffix("_nchwc"), text.removesuffix("_nchwc").removesuffix("_bn")):
        yield name
        while "/" in name:
            name = name.rpartition("/")[0]
            yield name
