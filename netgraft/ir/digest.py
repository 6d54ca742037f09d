"""The digest: what names the arrangement of a graph, brought up to date where the graph changes.

The refinement of Weisfeiler and Lehman (Shervashidze et al., JMLR 2011, section 2.1), which on an acyclic graph needs
one pass down and one pass up, over numbers of 64 bits:

- Down: the mark of a node mixes its label (operation, attributes, sharing of weights) and the marks of what it reads.
- A mark that no other node has is the node's name, since it says all there is to say, edges included.
- Up: twins, which compute the same from the same, are told apart by what uses them: the name of each mixes its mark and
  the names of its readers.

Equal graphs have equal digests; unequal ones nearly always have others. Beside a collision of 64 bits (one in 10^19 a
pair) these could share one: graphs that no refinement tells apart, where twins are read in common by other twins,
crosswise in one graph and straight in the other. None was met in the families, the zoo and the banks.

The digest is the sum of all names: sums do not ask for an order. A change to a graph is felt by the marks of what
depends on it, and in the up pass by twins alone.

Python's own ``hash`` takes no part: a digest is the same in every process and on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b
from typing import NamedTuple

from .node import Input, Node, Value

_BITS = 2**64 - 1
_FACTOR = 0x9E3779B97F4A7C15

Users = Mapping[str, Sequence[tuple[str, str]]]
"""For weight keys: the nodes that use them, by id, with the role in which they do."""
Edges = tuple[tuple[str, int], ...]
"""What a node reads, or who reads it, each with the constant of the place where that is."""


class Change(NamedTuple):
    """What happens to a graph: nodes ``gone``, others ``placed`` (under the same ids, maybe) that have ``labels``, and
    those that read something gone ``rewired``, as they are then. ``reads`` is what is known already of what those that
    are placed read. ``dependent`` are all outside that depend on something gone, in the graph's order; ``shared`` are
    then the weights used more than once.
    """

    gone: Sequence[str]
    placed: Sequence[Node]
    labels: Mapping[str, int]
    reads: Mapping[str, Edges]
    rewired: Sequence[Node]
    dependent: Sequence[str]
    shared: Users


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of a graph's inputs and nodes by id, and what they are made of: labels, and for each node what it reads
    and who reads it, each with the constant of the place where that is.
    """

    reads: dict[str, Edges]
    readers: dict[str, Edges]
    labels: dict[str, int]
    marks: dict[str, int]
    shared: Users

    @classmethod
    def of(cls, inputs: Sequence[Input], nodes: Sequence[Node], shared: Users) -> Marks:
        """The marks of a graph in which ``shared`` weights are used more than once."""
        labels = {given.id: _hash(f"input {i} {given.type}") for i, given in enumerate(inputs)}
        marks = {id: _mix(label) for id, label in labels.items()}
        bare = cls(dict.fromkeys(labels, ()), dict.fromkeys(labels, ()), labels, marks, {})
        return bare.after(Change((), nodes, {node.id: _label(node) for node in nodes}, {}, (), (), shared), nodes)

    def after(self, change: Change, nodes: Sequence[Node]) -> Marks:
        """The marks after a change to a graph that consists of ``nodes`` then."""
        reads, readers, labels, marks = self.reads.copy(), self.readers.copy(), self.labels.copy(), self.marks.copy()
        for id in (*change.gone, *[node.id for node in change.rewired]):
            for source, _ in reads.pop(id):
                if source in readers:
                    readers[source] = tuple([edge for edge in readers[source] if edge[0] != id])
        for id in change.gone:
            del readers[id], labels[id], marks[id]
        labels.update(change.labels)
        readers.update(dict.fromkeys(change.labels, ()))
        for node in (*change.placed, *change.rewired):
            id = node.id
            reads[id] = edges = change.reads.get(id) or _reads(node)
            for source, constant in edges:
                readers[source] += ((id, constant),)

        was, sharing = _sharing(self.shared), _sharing(change.shared)
        if was == sharing:
            changed = [*[node.id for node in change.placed], *change.dependent]
        else:
            changed = [node.id for node in nodes]
        own = labels | {id: labels[id] + share for id, share in sharing.items()} if sharing else labels
        for id in changed:
            mark = own[id]
            for source, constant in reads[id]:
                mark += constant * marks[source]
            product = (mark & _BITS) * _FACTOR  # _mix, without the call: this is where much of a search's time goes
            marks[id] = (product ^ product >> 64) & _BITS
        return Marks(reads, readers, labels, marks, change.shared)

    def digest(self, nodes: Sequence[Node], outputs: Sequence[Value]) -> str:
        """16 hex digits for the graph of ``nodes`` that returns ``outputs``."""
        names = self._names(nodes, outputs)
        total = sum(names.values())
        for position, value in enumerate(outputs):
            total += _mix(names[value.node] + _constant("output", position, value.index))
        # Weights have no names either: they are told apart by who uses them, and in which roles.
        for users in self.shared.values():
            total += _mix(sum([names[id] * _constant("user", role) for id, role in users]))
        return f"{_hashed(str(total & _BITS)):016x}"

    def _names(self, nodes: Sequence[Node], outputs: Sequence[Value]) -> dict[str, int]:
        # Every mark is written down with the last id that has it; whoever is not written down has a twin.
        last = dict(zip(self.marks.values(), self.marks, strict=True))
        if len(last) == len(self.marks):
            return self.marks
        names = self.marks.copy()
        others = names.keys() - last.values()
        twins = others | {last[names[id]] for id in others}
        returned = dict.fromkeys(twins, 0)
        for position, value in enumerate(outputs):
            if value.node in twins:
                returned[value.node] += _constant("output", position, value.index)
        for id in [node.id for node in reversed(nodes) if node.id in twins]:
            name = names[id] + returned[id]
            for reader, constant in self.readers[id]:
                name += constant * names[reader]
            names[id] = _mix(name)
        return names


def _mix(mark: int) -> int:
    """A folded multiplication: the low 64 bits of a product and those above them."""
    product = (mark & _BITS) * _FACTOR
    return (product ^ product >> 64) & _BITS


def _sharing(shared: Users) -> dict[str, int]:
    """What the nodes that share weights add to their labels: in which roles they do, and with how many others."""
    sharing: dict[str, int] = {}
    for users in shared.values():
        for id, role in users:
            sharing[id] = sharing.get(id, 0) + _constant("shared", role, len(users))
    return sharing


def _reads(node: Node) -> Edges:
    inputs = node.inputs
    if len(inputs) < 2 or node.definition.commutative:
        return tuple([(value.node, _constant("read", 0, value.index)) for value in inputs])
    return tuple([(value.node, _constant("read", i, value.index)) for i, value in enumerate(inputs)])


def _label(node: Node) -> int:
    """64 bits that stand for the operation and its attributes."""
    return _hash(f"{node.op} {[node.attrs[name] for name in node.definition.attrs]}")


@cache
def _constant(*words: str | int) -> int:
    """A fixed number of 64 bits, odd, so that nothing is lost where it is a factor."""
    return _hash(" ".join(map(str, words))) | 1


def _hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


_hash = lru_cache(maxsize=2**16)(_hashed)
