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
        shares = any(returned.alias_info for returned in schema.returns) or "dropout" in name
        if isinstance(base, fx.Node) and shares:
            self._origin[node] = self.origin(base)
            if schema.is_mutable or name in ("detach", "alias"):
                self._copy[node] = self._copy.get(base, base)
        self._sharing[self.origin(node)].append(node)

    def origin(self, node: fx.Node) -> fx.Node:
        """The node whose memory ``node`` looks into."""
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            return self.origin(node.args[0])
        return self._origin.get(node, node)

    def _family(self, node: fx.Node) -> Iterator[fx.Node]:
        origin = self.origin(node)
        for member in dict.fromkeys([origin, *self._sharing[origin]]):
            yield member
            yield from (user for user in member.users if user.target is operator.getitem)

    def same(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that are the same tensor, itself included."""
        first = self._copy.get(node, node)
        return [member for member in self._family(node) if self._copy.get(member, member) is first]

    def read_later(self, written: fx.Node, writer: fx.Node) -> fx.Node | None:
        """Another view of what ``writer`` writes into that is read after it."""
        same = self.same(written)
        for member in self._family(written):
            later = any(writer < user for user in member.users if user.target is not operator.getitem)
            if member is not writer and member not in same and later:
                return member
        return None
