"""Operations that write in place, as ones that compute: what is written takes the place of what stood there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import fx
from torch._ops import OpOverload

from netgraft.convert.aliases import Aliases
from netgraft.convert.calls import DecompositionNeededError, Operand, Result, Stored, Untranslatable, unspaced
from netgraft.convert.computed import is_constant
from netgraft.convert.naming import is_unnamed
from netgraft.errors import SourceError
from netgraft.ir import TensorType

_SCATTERS = {
    "aten.select.int": "select_scatter.default",
    "aten.slice.Tensor": "slice_scatter.default",
    "aten.narrow.default": "slice_scatter.default",
}
"""What writes back into a tensor what a view of it became."""

_FUNCTIONAL = {"aten.bernoulli_.float": "bernoulli.p"}
"""Operations in place whose functional form has another name."""


class Reading(Protocol):
    """What goes through a program, and knows what its nodes gave: ``results``, which writing changes."""

    results: dict[fx.Node, Any]

    def bind(self, target: OpOverload, node: fx.Node) -> dict[str, Any]:
        """The arguments of a call by the names that ``target`` has for them, with the results of nodes filled in."""

    def fold(self, target: OpOverload, arguments: Mapping[str, Any]) -> Result:
        """What does not depend on the input, computed now."""

    def apply(self, target: OpOverload, node: fx.Node) -> Result:
        """What ``target``, or its form in place that ``node`` calls, gives."""

    def again(self, node: fx.Node) -> Any:
        """What a call that was read gives now that something else stands where it looks."""

    def translate(
        self, name: str, arguments: Mapping[str, Any], types: Sequence[TensorType | None], used: frozenset[int]
    ) -> Result:
        """What the rule of that name gives; Untranslatable where it cannot."""

    def type(self, operand: Operand) -> TensorType:
        """The operand's type."""


class Writes:
    """What one program writes in place."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._aliases = Aliases()

    def note(self, node: fx.Node) -> None:
        """Takes note of a call, whose result may look into that of another."""
        self._aliases.add(node)

    def write(self, node: fx.Node, target: OpOverload) -> Result:
        """The value that a call in place computes; it takes the place of what was overwritten.

        Raises SourceError where that is a buffer, DecompositionNeededError where it cannot be followed.
        """
        written = [arg.name for arg in target._schema.arguments if arg.alias_info and arg.alias_info.is_write]
        base = node.args[0] if node.args else None
        if not isinstance(base, fx.Node) or written != [target._schema.arguments[0].name]:
            raise DecompositionNeededError(f"{target} writes into {' and '.join(written)}")
        results = self._reading.results
        origin = results.get(self._aliases.origin(base))
        if isinstance(origin, Stored) and not is_unnamed(origin.key):
            if origin.key.endswith("num_batches_tracked"):
                return origin
            raise changes(origin.key)
        arguments = self._reading.bind(target, node)
        if isinstance(origin, Stored) and is_constant(target, arguments):
            return self._reading.fold(target, arguments)
        functional = _functional(target)
        if functional is None:
            raise DecompositionNeededError(f"{target} has no form that leaves its input alone")
        stale = self._aliases.read_later(base, node)
        result = self._reading.apply(functional, node)
        results.update(dict.fromkeys(self._aliases.same(base), result))
        if stale:
            self._write_through(base, stale)
        return result

    def _write_through(self, base: fx.Node, stale: Sequence[fx.Node]) -> None:
        """What was written into a view shows in the tensor that it looks into, and so in that one's ``stale`` views."""
        results = self._reading.results
        views = self._aliases.views(base)
        for view in views:
            whole = view.args[0]
            assert isinstance(whole, fx.Node), "a view has a base"
            results.update(dict.fromkeys(self._aliases.same(whole), self._scattered(view, whole)))
        known = {*views, self._aliases.origin(base)}
        for node in stale:
            first = self._aliases.first(node)
            if node is not first:
                results[node] = results[first]
            elif node not in known:
                results[node] = self._reading.again(node)

    def _scattered(self, view: fx.Node, whole: fx.Node) -> Result:
        """``whole`` with what ``view``, which looks into it, became."""
        name, target = _SCATTERS.get(str(view.target)), view.target
        if name is None or not isinstance(target, OpOverload):
            raise DecompositionNeededError(f"it writes into what {target} gives, and reads another view of that")
        results = self._reading.results
        arguments = self._reading.bind(target, view) | {"self": results[whole], "src": results[view]}
        if "length" in arguments:  # narrow, a slice that says how long it is
            arguments |= {"end": arguments["start"] + arguments["length"], "step": 1}
        try:
            return self._reading.translate(name, arguments, (self._reading.type(results[whole]),), frozenset([0]))
        except Untranslatable as error:
            raise DecompositionNeededError(f"it writes into a part of a tensor: {error}") from None


def changes(buffer: str) -> SourceError:
    """The error for a network that writes into one of its buffers."""
    return SourceError(
        f"it changes its buffer {buffer!r} as it runs, which a graph cannot hold; let it do so in training only, or "
        "return the new value and keep it outside"
    )


def _functional(target: OpOverload) -> OpOverload | None:
    name, overload = _FUNCTIONAL.get(str(target), unspaced(target)).split(".")
    packet = getattr(getattr(torch.ops, target.namespace), name.removesuffix("_"), None)
    found = getattr(packet, overload, None)
    return found if isinstance(found, OpOverload) and not found._schema.is_mutable else None
