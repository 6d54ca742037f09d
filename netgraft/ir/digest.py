"""The digest: what names the arrangement of a graph, brought up to date where the graph changes.

The refinement of Weisfeiler and Lehman (Shervashidze et al., JMLR 2011, section 2.1), which on an acyclic graph needs
one pass down and one pass up. Every node has three numbers of 64 bits:

``down``    its label (operation, attributes, sharing of weights) and the ``down`` of what it reads;
``uses``    the sum of the *names* of what reads it, each times a constant of the place where it is read;
``whole``   both mixed.

A node's name is its ``down`` where no other node has the same, which then says all there is to say; only twins, which
compute the same from the same, go by their ``whole`` and are told apart by what uses them. So a change is felt by all
that depends on it, and above it by little more than what it reads. The digest is the sum of all ``whole``: sums do not
ask for an order.

Python's own ``hash`` takes no part: a digest is the same in every process and on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b

from .node import Input, Node, Value

_BITS = 2**64 - 1
_FACTOR = 0x9E3779B97F4A7C15

Users = Mapping[str, Sequence[tuple[str, str]]]
"""For weight keys: the nodes that use them, by id, with the role in which they do."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a graph: nodes ``gone``, others ``placed`` (under the same ids, maybe), and those that read
    something gone ``rewired``, as they are then. ``returned`` are the outputs by position that were something gone;
    ``shared`` are afterwards the weights that are used more than once.
    """

    gone: Sequence[str]
    placed: Sequence[Node]
    rewired: Sequence[Node]
    returned: Sequence[tuple[int, Value]]
    shared: Users


@dataclass(slots=True)
class Marks:
    """What the digest of a graph is made of, by the ids of its inputs and nodes; see above.

    ``reads`` holds for every node the ids of what it reads with the constant of each place, ``counts`` how many nodes
    have a ``down``, ``total`` is the sum of ``whole``.
    """

    reads: dict[str, tuple[tuple[str, int], ...]]
    labels: dict[str, int]
    down: dict[str, int]
    counts: dict[int, int]
    uses: dict[str, int]
    whole: dict[str, int]
    total: int
    shared: Users

    @classmethod
    def of(cls, inputs: Sequence[Input], nodes: Sequence[Node], outputs: Sequence[Value], shared: Users) -> Marks:
        """The marks of a graph."""
        labels = {given.id: _hash(f"input {i} {given.type}") for i, given in enumerate(inputs)}
        down = {id: _mix(label) for id, label in labels.items()}
        whole = {id: _mix(mark) for id, mark in down.items()}
        bare = cls(
            reads=dict.fromkeys(labels, ()),
            labels=labels,
            down=down,
            counts=dict.fromkeys(down.values(), 1),
            uses=dict.fromkeys(labels, 0),
            whole=whole,
            total=sum(whole.values()),
            shared={},
        )
        return bare.after(Change((), nodes, (), tuple(enumerate(outputs)), shared), inputs, nodes)

    @property
    def digest(self) -> str:
        """16 hex digits."""
        # Weights have no names either: they are told apart by who uses them, and in which roles.
        sharing = sum(
            _mix(sum(self.whole[id] * _constant("user", role) for id, role in users)) for users in self.shared.values()
        )
        return f"{_hash(f'{self.total & _BITS} {sharing & _BITS}'):016x}"

    def after(self, change: Change, inputs: Sequence[Input], nodes: Sequence[Node], start: int = 0) -> Marks:
        """The marks of the graph that ``change`` leads to, which consists of ``inputs`` and ``nodes``; before the node
        at ``start`` nothing depends on the change.
        """
        marks = Marks(
            self.reads.copy(),
            self.labels.copy(),
            self.down.copy(),
            self.counts.copy(),
            self.uses.copy(),
            self.whole.copy(),
            self.total,
            change.shared,
        )
        stale = marks._replace(self, change)
        relabelled = marks._label(self, change)
        fresh = {node.id for node in (*change.placed, *change.rewired)}
        moved = marks._descend(nodes if relabelled else nodes[start:], fresh | relabelled)
        recounted = {self.down[id] for id in (*change.gone, *moved) if id in self.down}
        recounted.update(marks.down[id] for id in moved)
        # Where a node was a twin and is one no longer, or has become one, its name changes and nothing else of it does.
        renamed = {mark for mark in recounted if (marks.counts.get(mark) == 1) != (self.counts.get(mark) == 1)}
        if renamed:
            stale.update(id for id, mark in marks.down.items() if mark in renamed)
        marks._ascend(self, (*inputs, *nodes), stale | fresh | moved, fresh)
        return marks

    def _name(self, id: str) -> int:
        """What stands for a node where it is read."""
        down = self.down[id]
        return down if self.counts[down] == 1 else self.whole[id]

    def _replace(self, old: Marks, change: Change) -> set[str]:
        """Takes nodes out and puts nodes in; returns those whose readers changed."""
        stale: set[str] = set()
        for id in (*change.gone, *(node.id for node in change.rewired)):
            name = old._name(id)
            for source, constant in self.reads[id]:
                self.uses[source] = self.uses[source] - constant * name & _BITS
                stale.add(source)
        for id in change.gone:
            self._uncount(self.down.pop(id))
            self.total -= self.whole.pop(id)
            del self.reads[id], self.labels[id], self.uses[id]
        stale.difference_update(change.gone)
        for node in change.placed:
            self.uses[node.id] = 0
        for node in (*change.placed, *change.rewired):
            self.reads[node.id] = _reads(node)
        for position, value in change.returned:
            self.uses[value.node] = self.uses[value.node] + _constant("output", position, value.index) & _BITS
            stale.add(value.node)
        return stale

    def _label(self, old: Marks, change: Change) -> set[str]:
        """Labels what is placed and whatever shares its weights with others than before; returns the latter."""
        resharing = self.shared != old.shared
        relabelled: set[str] = set()
        for users in old.shared.values() if resharing else ():
            for id, role in users:
                if id in self.labels:
                    self.labels[id] = self.labels[id] - _constant("shared", role, len(users)) & _BITS
                    relabelled.add(id)
        for node in change.placed:
            self.labels[node.id] = _label(node)
        for users in self.shared.values() if resharing else ():
            for id, role in users:
                self.labels[id] = self.labels[id] + _constant("shared", role, len(users)) & _BITS
                relabelled.add(id)
        return relabelled

    def _descend(self, nodes: Sequence[Node], fresh: set[str]) -> set[str]:
        """Computes ``down`` of what is fresh and of what depends on it; returns the nodes where it changed."""
        moved: set[str] = set()
        down, reads, labels, counts = self.down, self.reads, self.labels, self.counts
        for node in nodes:
            id = node.id
            sources = reads[id]
            if id not in fresh:
                for source, _ in sources:
                    if source in moved:
                        break
                else:
                    continue
            mark = labels[id]
            for source, constant in sources:
                mark += constant * down[source]
            mark = _mix(mark)
            before = down.get(id)
            if mark != before:
                if before is not None:
                    self._uncount(before)
                counts[mark] = counts.get(mark, 0) + 1
                down[id] = mark
                moved.add(id)
        return moved

    def _ascend(self, old: Marks, order: Sequence[Input | Node], stale: set[str], fresh: set[str]) -> None:
        """Computes ``whole`` of what is stale, and tells what it reads where its name changed."""
        down, uses, whole, reads, counts = self.down, self.uses, self.whole, self.reads, self.counts
        for item in reversed(order):
            id = item.id
            if id not in stale:
                continue
            mark = down[id]
            mixed = _mix(mark + uses[id])
            self.total += mixed - whole.get(id, 0)
            whole[id] = mixed
            # What is fresh has not been counted by what it reads.
            change = (mark if counts[mark] == 1 else mixed) - (0 if id in fresh else old._name(id))
            if change:
                for source, constant in reads[id]:
                    uses[source] = uses[source] + constant * change & _BITS
                    stale.add(source)

    def _uncount(self, mark: int) -> None:
        if self.counts[mark] == 1:
            del self.counts[mark]
        else:
            self.counts[mark] -= 1


def _mix(mark: int) -> int:
    """A folded multiplication: the low 64 bits of the product and those above them."""
    product = mark * _FACTOR
    return (product ^ product >> 64) & _BITS


def _reads(node: Node) -> tuple[tuple[str, int], ...]:
    if node.definition.commutative:
        return tuple([(value.node, _constant("read", 0, value.index)) for value in node.inputs])
    return tuple([(value.node, _constant("read", i, value.index)) for i, value in enumerate(node.inputs)])


def _label(node: Node) -> int:
    """64 bits that stand for the operation and its attributes."""
    return _hash(f"{node.op} {[node.attrs[name] for name in node.definition.attrs]}")


@cache
def _constant(*words: str | int) -> int:
    """A fixed number of 64 bits, odd, so that nothing is lost where it is a factor."""
    return _hash(" ".join(map(str, words))) | 1


@lru_cache(maxsize=2**16)
def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
