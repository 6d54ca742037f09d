"""What the nodes and weights of a graph are called that was read from PyTorch: as in the user's module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import filterfalse

from torch import fx

from netgraft.ir import Graph, Node, Value


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node comes from: the call of a module, the module's path, and what the node does there."""

    call: str
    path: str
    name: str

    @classmethod
    def of(cls, node: fx.Node, name: str) -> Place:
        """The place of a node of an exported program, which does what ``name`` says."""
        stack = [(call, path) for call, (path, _) in node.meta.get("nn_module_stack", {}).items() if call[0] != "_"]
        call, path = stack[-1] if stack else ("", "")
        # What torch.export(strict=True) writes: L['self'].layers[0].conv
        path = re.sub(r"^L\['self'\]\.?", "", path)
        path = re.sub(r"\[['\"]?(\w+)['\"]?\]", r".\1", path)
        return cls(call, re.sub(r"[\s(){}<>,=:]+", "_", path).strip("."), name)


def unnamed(number: int) -> str:
    """The key of a tensor that the user's module has no name for, until :func:`named` gives it one."""
    return f"%{number}"


def is_unnamed(key: str) -> bool:
    """Whether a key is one that :func:`unnamed` gave."""
    return key.startswith("%")


def named(graph: Graph, places: Mapping[str, Place]) -> tuple[Graph, dict[str, str]]:
    """The graph with ids for people, and what each weight was called before, by the key that it has now.

    A node has a module's path where a call of that is one node, otherwise the path of the module around it and the name
    of the operation; constants are called like what they hold.
    """
    taken = {given.id for given in graph.inputs}
    names: dict[str, str] = {}

    def claim(node: Node, stem: str) -> None:
        id, count = stem, 1
        while id in taken:
            count += 1
            id = f"{stem}_{count}"
        taken.add(id)
        names[node.id] = id

    def is_kept(node: Node) -> bool:
        return node.op == "constant" and not is_unnamed(node.weights["value"])

    kept, rest = list(filter(is_kept, graph)), list(filterfalse(is_kept, graph))
    paths = [places[node.id].path for node in rest] + [node.weights["value"] for node in kept]
    outer = {path[:end] for path in paths for end in (m.start() for m in re.finditer(r"\.", path))}
    calls = Counter(places[node.id].call for node in rest)

    def is_module(node: Node) -> bool:
        place = places[node.id]
        return bool(place.path) and calls[place.call] == 1 and place.path not in outer

    for node in kept:
        claim(node, node.weights["value"])
    for node in filter(is_module, rest):
        claim(node, places[node.id].path)
    for node in rest:
        if node.id not in names:
            place = places[node.id]
            claim(node, f"{place.path}.{place.name}" if place.path else place.name)
    return _renamed(graph, names)


def _renamed(graph: Graph, names: Mapping[str, str]) -> tuple[Graph, dict[str, str]]:
    def value(old: Value) -> Value:
        return Value(names.get(old.node, old.node), old.index)

    keys = {key: key for node in graph for key in node.weights.values() if not is_unnamed(key)}
    taken = set(keys)

    def key_of(node: Node, role: str, key: str) -> str:
        if key not in keys:
            name, count = f"{names[node.id]}.{role}", 1
            while name in taken:
                count += 1
                name = f"{names[node.id]}.{role}_{count}"
            keys[key] = name
            taken.add(name)
        return keys[key]

    def weights(node: Node) -> dict[str, str]:
        return {role: key_of(node, role, key) for role, key in node.weights.items()}

    nodes = [
        replace(node, id=names[node.id], inputs=tuple(map(value, node.inputs)), weights=weights(node)) for node in graph
    ]
    renamed = Graph(graph.inputs, tuple(nodes), tuple(map(value, graph.outputs)))
    return renamed, {new: old for old, new in keys.items()}
