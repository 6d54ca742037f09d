"""Who shares memory with whom in a traced program: what has to be known of operations that write in place."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterator

from torch import fx
from torch._ops import OpOverload


class Aliases:
    """Which results of a program may share memory, by the schemas of what computed them."""

    def __init__(self) -> None:
        self._origin: dict[fx.Node, fx.Node] = {}
        self._copy: dict[fx.Node, fx.Node] = {}
        self._sharing: defaultdict[fx.Node, list[fx.Node]] = defaultdict(list)

    def add(self, node: fx.Node) -> None:
        """Takes note of a call."""
        assert isinstance(node.target, OpOverload)
        schema, name = node.target._schema, node.target.__name__.split(".")[0]
        base = node.args[0] if node.args else None
        idle = "dropout" in name and False in node.args  # in evaluation it gives what it is given
        if isinstance(base, fx.Node) and (idle or any(returned.alias_info for returned in schema.returns)):
            self._origin[node] = self.origin(base)
            if idle or schema.is_mutable or name in ("detach", "alias"):
                self._copy[node] = self.first(base)
        self._sharing[self.origin(node)].append(node)

    def origin(self, node: fx.Node) -> fx.Node:
        """The node whose memory ``node`` looks into."""
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            return self.origin(node.args[0])
        return self._origin.get(node, node)

    def first(self, node: fx.Node) -> fx.Node:
        """The node that was the first to be the tensor that ``node`` is."""
        return self._copy.get(node, node)

    def _family(self, node: fx.Node) -> Iterator[fx.Node]:
        origin = self.origin(node)
        for member in dict.fromkeys([origin, *self._sharing[origin]]):
            yield member
            yield from filter(_is_part, member.users)

    def same(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that are the same tensor, itself included."""
        first = self.first(node)
        return [member for member in self._family(node) if self.first(member) is first]

    def read_later(self, written: fx.Node, writer: fx.Node) -> list[fx.Node]:
        """The other views of what ``writer`` writes into, as they were made, that are read after it or whose own views
        are.
        """
        same = {writer, *self.same(written)}  # these are given what is written
        read: set[fx.Node] = set()
        for member in reversed([m for m in self._family(written) if m not in same]):
            views = [user for user in member.users if self._origin.get(user) is not None or _is_part(user)]
            if any(writer < user and not _is_part(user) for user in member.users) or not read.isdisjoint(views):
                read.add(member)
        return [member for member in self._family(written) if member in read]

    def views(self, node: fx.Node) -> list[fx.Node]:
        """The views by which ``node`` looks into its origin, the last one first."""
        chain, origin = [], self.origin(node)
        while (node := self.first(node)) is not origin:
            chain.append(node)
            base = node.args[0]
            assert isinstance(base, fx.Node), "a view has a base"
            node = base
        return chain


def _is_part(node: fx.Node) -> bool:
    """Whether a node is one of several results of another."""
    return node.target is operator.getitem
