"""What no mutation may change: by its place in the network, and by the user's word.

:func:`untouchable` says what is left alone in any network, :func:`delicate` what is changed as a whole or not at all,
:func:`fixed_by` reads the patterns of ``--freeze`` and
``--only``; :func:`netgraft.mutations.sparing.sparing` keeps mutations away from both.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from netgraft.errors import OptionError
from netgraft.ir import Edit, Graph, Keep, Region
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED
from netgraft.segments import head

_LAYERS: Final = CONVOLUTIONS | TRANSPOSED | {"linear"}
_PREPARING: Final = frozenset(
    {
        *(
            "add_scalar",
            "mul_scalar",
            "add",
            "sub",
            "mul",
            "div",
            "pow",
            "sqrt",
            "clamp",
            "interpolate",
            "interpolate_like",
        ),
        *("pad", "slice", "split", "concat", "reshape", "flatten", "permute", "expand", "identity", "constant"),
    }
)
"""What is done to inputs before a network begins: normalising, resizing, cutting and rearranging."""


_NEVER_NEGATIVE: Final = frozenset(["relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "softplus", "exp", "sqrt"])
_WITH_SIGN: Final = _LAYERS | {"batch_norm", "group_norm", "layer_norm"}


def untouchable(graph: Graph) -> dict[str, str]:
    """The nodes, by id, that no mutation changes, and why: frozen operations, what prepares the inputs (normalises or
    resizes them before the first layer) and what comes after the last layers (a softmax, the decoding of boxes).
    """
    found: dict[str, str] = {}
    prepared = {given.id for given in graph.inputs}
    for node in graph:
        if node.op == "frozen":
            found[node.id] = f"frozen: {node.attrs['target']}"
        if node.op in _PREPARING and all(value.node in prepared for value in node.inputs):
            prepared.add(node.id)
            if node.op != "constant":
                found.setdefault(node.id, "prepares the inputs")
    for id in head(graph):
        if graph[id].op not in _LAYERS:
            found.setdefault(id, "comes after the last layer")
    return found


def delicate(graph: Graph) -> tuple[frozenset[str], ...]:
    """For each operation that is not defined everywhere (a root, a fractional or negative power, a division), it and
    the nodes before it that see to it that it is, back to a layer or to what is never negative: a standard deviation,
    say. Each of these stays whole or goes whole.
    """
    chains: list[frozenset[str]] = []
    for node in graph:
        exponent = node.attrs.get("exponent", 1)
        if not (node.op in ("sqrt", "div") or exponent < 0 or exponent % 1):
            continue
        chain = {node.id}
        stack = [node.inputs[-1].node]
        while stack:
            id = stack.pop()
            if id in chain or id not in graph or graph[id].op in _WITH_SIGN:
                continue
            chain.add(id)
            if not (graph[id].op in _NEVER_NEGATIVE or graph[id].attrs.get("exponent", 1) % 2 == 0):
                stack.extend(value.node for value in graph[id].inputs)
        chains.append(frozenset(chain))
    return tuple(chains)


def tears(region: Region, whole: Sequence[frozenset[str]]) -> bool:
    """Whether a region has some, but not all, of the nodes of a chain that must stay whole (:func:`delicate`)."""
    nodes = region.nodes
    return any(not chain <= nodes and not chain.isdisjoint(nodes) for chain in whole)


def changed(graph: Graph, edit: Edit) -> frozenset[str]:
    """The nodes that an edit takes out or alters; those of its region that the replacement has as they were are not."""

    def kept(id: str) -> bool:
        if id not in edit.replacement:
            return False
        old, new = graph[id], edit.replacement[id]
        same = (old.op, old.attrs, old.weights) == (new.op, new.attrs, new.weights)
        whole = all(edit.carry.get(key) == Keep(key) for key in new.weights.values())
        return same and whole and len(old.inputs) == len(new.inputs)

    return frozenset(id for id in edit.region.nodes if not kept(id))


def fixed_by(graph: Graph, freeze: Sequence[str] = (), only: Sequence[str] = ()) -> frozenset[str]:
    """The nodes that the patterns ``freeze`` match, and those that no pattern of ``only`` matches if there is one.

    A pattern is a node's id or the path of a module, which stands for all inside of it; ``*``, ``?`` and ``[]`` mean
    what they mean in the names of files, and ``*`` reaches across dots. OptionError, with near names, where a pattern
    matches nothing, and where ``only`` leaves nothing to change.
    """
    fixed: set[str] = set()
    for pattern in freeze:
        fixed |= _matching(graph, pattern, "--freeze")
    if only:
        wanted = set().union(*(_matching(graph, pattern, "--only") for pattern in only))
        fixed |= {node.id for node in graph} - wanted
    if fixed and all(node.id in fixed for node in graph):
        given = [f"--freeze {pattern}" for pattern in freeze] + [f"--only {pattern}" for pattern in only]
        raise OptionError(f"{' and '.join(given)}: that leaves no operation to change")
    return frozenset(fixed)


def _matching(graph: Graph, pattern: str, option: str) -> set[str]:
    paths = {node.id: _paths(node.id) for node in graph}
    found = {id for id, names in paths.items() if any(fnmatchcase(name, pattern) for name in names)}
    if not found:
        known = list(dict.fromkeys(name for names in paths.values() for name in names))
        near = difflib.get_close_matches(pattern.rstrip(".*"), known, n=4, cutoff=0.5)
        outermost = list(dict.fromkeys(names[0] for names in paths.values()))
        raise OptionError(
            f"{option} {pattern!r} matches no operation of the network; "
            + (f"near are {', '.join(near)}" if near else f"it has {', '.join(outermost[:8])}")
            + " ('netgraft inspect --nodes' lists them)"
        )
    return found


def _paths(id: str) -> list[str]:
    """The node's id and the modules around it: ``a``, ``a.b``, ``a.b.conv``."""
    parts = id.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]
