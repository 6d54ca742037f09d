"""What a program computes from its parameters alone, and uses as weights: weight standardisation, masks, adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload

from netgraft.convert.calls import Operand, Result, Stored
from netgraft.ir import Batch, DType, Graph, Value


class _Fixed(NamedTuple):
    """A value that depends on parameters alone: what it is, a number that is the same for the same computation, the
    parameters, and whether it only shows a part of one of them, or in another shape.
    """

    tensor: Tensor
    number: int
    sources: frozenset[str]
    is_view: bool


class Computed:
    """The values of one program that depend on its parameters alone. ``store`` keeps a tensor under a key of its own;
    parameters that are to be kept ``apart`` are no part of any weight that is computed.
    """

    def __init__(self, apart: frozenset[str], store: Callable[[Tensor], Stored]) -> None:
        self.apart = apart
        self._store = store
        self._fixed: dict[Value, _Fixed] = {}
        self._numbers: dict[tuple[object, ...], int] = {}
        self._weights: dict[int, Stored] = {}

    def note(
        self,
        result: Result,
        target: OpOverload,
        arguments: Mapping[str, Any],
        dtype_of: Callable[[Operand], DType],
    ) -> None:
        """Takes note of what ``target`` gave: what depends on parameters alone is computed now.

        A cast is none of that: weights keep the precision in which they are trained.
        """
        read = [x for value in arguments.values() for x in flat(value) if isinstance(x, Operand | Batch)]
        if torch.Tag.nondeterministic_seeded in target.tags or not all(
            isinstance(x, Stored) or x in self._fixed for x in read
        ):
            return
        computed = self.run(target, arguments)
        parts = computed if isinstance(computed, list | tuple) else [computed]
        said = str(target), *map(self._said, arguments.values())
        operands = [x for x in read if not isinstance(x, Batch)]
        known = [self._fixed[x] if isinstance(x, Value) else x for x in operands]
        sources = frozenset().union(
            *(x.sources if isinstance(x, _Fixed) else {x.key} if x.trainable else () for x in known)
        )
        is_view = any(returned.alias_info for returned in target._schema.returns) and all(
            isinstance(x, Stored) or x.is_view for x in known
        )
        dtypes = set(map(dtype_of, operands))
        for position, part in enumerate(result if isinstance(result, tuple) else (result,)):
            if isinstance(part, Value) and dtype_of(part) in dtypes:
                number = self._numbers.setdefault((*said, position), len(self._numbers))
                self._fixed.setdefault(part, _Fixed(parts[position], number, sources, is_view))

    def run(self, target: OpOverload, arguments: Mapping[str, Any]) -> Any:
        """What an operation gives whose tensors are all known."""
        with torch.no_grad():
            return target(**{name: self._real(value) for name, value in arguments.items()})

    def _real(self, argument: Any) -> Any:
        if isinstance(argument, Stored):
            return argument.tensor
        if isinstance(argument, Value):
            return self._fixed[argument].tensor
        return [self._real(item) for item in argument] if isinstance(argument, list | tuple) else argument

    def _said(self, argument: Any) -> object:
        """An argument in a form that is equal for equal computations."""
        if isinstance(argument, Value):
            return ("fixed", self._fixed[argument].number)
        if isinstance(argument, Stored):
            return ("stored", argument.key, argument.tensor._version)
        return tuple(map(self._said, argument)) if isinstance(argument, list | tuple) else repr(argument)

    def weight(self, operand: Value) -> Stored | None:
        """The operand as a stored tensor; None where it depends on the input or chance, or on what is kept apart."""
        fixed = self._fixed.get(operand)
        if fixed is None or not fixed.sources.isdisjoint(self.apart):
            return None
        if fixed.number not in self._weights:
            self._weights[fixed.number] = self._store(fixed.tensor.clone())
        return self._weights[fixed.number]

    def is_view(self, operand: Value) -> bool:
        """Whether an operand only shows a part of a parameter, or in another shape."""
        return operand in self._fixed and self._fixed[operand].is_view

    def shared(self, graph: Graph) -> frozenset[str]:
        """The parameters of which weights of ``graph`` were computed although it reads them in other places, too: these
        would not be the same any more.
        """
        used = {key for node in graph for key in node.weights.values()}
        sources = {
            source
            for fixed in self._fixed.values()
            if (weight := self._weights.get(fixed.number)) is not None and weight.key in used
            for source in fixed.sources
        }
        return frozenset(sources & used)


def is_constant(target: OpOverload, arguments: Mapping[str, Any]) -> bool:
    """Whether the operation gives the same whatever the input, the training and the random state."""
    depends = any(
        isinstance(item, Value | Batch) or (isinstance(item, Stored) and item.trainable)
        for value in arguments.values()
        for item in flat(value)
    )
    return not depends and torch.Tag.nondeterministic_seeded not in target.tags


def flat(value: Any) -> Iterator[Any]:
    """What an argument holds, out of its lists."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    else:
        yield value
