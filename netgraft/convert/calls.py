"""What a rule of translation sees of a call of PyTorch's, and where it puts what the call computes.

A rule reads a :class:`Call` and returns what it computes, having emitted the nodes for it; where the op table cannot
say what the call does, it raises :class:`Untranslatable` with the reason, and the call becomes a frozen node. Rules
need not check the shape of their result: whoever applies them compares it with the shape that PyTorch computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor
from torch._ops import OpOverload

from netgraft.errors import SourceError
from netgraft.ir import Batch, TensorType, Value


class Untranslatable(Exception):
    """Why a call has no counterpart in the op table; a frozen node's ``reason``."""


class DecompositionNeededError(SourceError):
    """A network that casts automatically, writes without gradients, or into what is seen from elsewhere in a way that
    cannot be followed: only decomposed operations say what that computes.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor that does not depend on the input: a parameter, a buffer or a folded constant.

    ``computed``: the network computes it from its parameters each time, as weight standardisation does.
    """

    key: str
    tensor: Tensor
    trainable: bool
    computed: bool = False


Operand = Value | Stored
Result = Operand | tuple[Operand | None, ...]


class Emitter(Protocol):
    """Where rules put nodes."""

    def emit(self, op: str, *inputs: Value, weights: Mapping[str, Stored], attrs: Mapping[str, Any]) -> Value:
        """Adds a node."""

    def value(self, operand: Operand) -> Value:
        """The operand as a value; a stored tensor becomes a constant node."""

    def type(self, operand: Operand) -> TensorType:
        """The operand's type."""

    def follows(self, arguments: Mapping[str, Any], name: str) -> bool:
        """Whether an argument that switches to training follows the mode of the network."""

    def tracked(self, running_mean: Stored) -> Stored:
        """The count of batches that belongs to a batch norm's running mean."""

    def transposed(self, operand: Operand) -> Stored | None:
        """The stored matrix whose transpose the operand is."""

    def folded(self, operand: Value) -> Stored | None:
        """The operand as a stored tensor; None where it depends on the input or chance."""

    def is_view(self, operand: Value) -> bool:
        """Whether an operand only shows a part of a parameter, or in another shape."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation: its arguments by the names of its schema, and the types of what it returns."""

    arguments: Mapping[str, Any]
    outputs: tuple[TensorType, ...]
    used: frozenset[int]
    emitter: Emitter

    def __getitem__(self, name: str) -> Any:
        """An argument: numbers, strings, lists of them, :class:`Batch`, operands, None."""
        return self.arguments[name]

    def emit(
        self, op: str, *inputs: Operand, weights: Mapping[str, Stored | None] | None = None, **attrs: Any
    ) -> Value:
        """Adds a node; weights that are None are left out."""
        held = {role: stored for role, stored in (weights or {}).items() if stored is not None}
        return self.emitter.emit(op, *(self.emitter.value(x) for x in inputs), weights=held, attrs=attrs)

    def type(self, name: str) -> TensorType:
        """The type of a tensor argument."""
        return self.emitter.type(self[name])

    def dim(self, name: str = "dim", of: str = "self") -> int:
        """An axis argument, counted from the front of the tensor ``of``."""
        return int(self[name]) % max(self.type(of).rank, 1)

    def stored(self, name: str) -> Stored | None:
        """A weight argument, also one that is computed from parameters alone; Untranslatable where the input has a part
        in it.
        """
        operand = self.folded(self[name])
        if isinstance(operand, Value):
            raise Untranslatable(f"its {name} is computed from the input")
        return operand

    def folded(self, operand: Operand | None) -> Operand | None:
        """An operand as a stored tensor where it does not depend on the input."""
        return self.emitter.folded(operand) or operand if isinstance(operand, Value) else operand

    def image(self, name: str) -> Operand:
        """A tensor argument that must be N, C, H, W."""
        return self.batched(name, 2)

    def batched(self, name: str, sides: int) -> Operand:
        """A tensor argument that must have a batch and channels before its sides."""
        operand: Operand = self[name]
        if self.type(name).rank != 2 + sides:
            raise Untranslatable(f"the input {self.type(name)} is no batch of {'images' if sides == 2 else 'signals'}")
        return operand

    def reshape(self, x: Operand, shape: Sequence[int | Batch]) -> Operand:
        """``x`` in another shape; what leaves the batch alone and flattens the rest is a flatten."""
        before, after = self.emitter.type(x).shape, tuple(shape)
        if before == after:
            return x
        if len(after) == 2 < len(before) and before[0] == after[0]:
            return self.emit("flatten", x)
        return self.emit("reshape", x, shape=after)


Rule = Callable[[Call], Result]

_R = TypeVar("_R", bound=Rule)


class Rules(dict[str, Rule]):
    """Rules by the name of the operation without its namespace (``conv2d.default``)."""

    def add(self, *targets: str) -> Callable[[_R], _R]:
        """Decorates the rule for some operations."""

        def register(rule: _R) -> _R:
            self.update(dict.fromkeys(targets, rule))
            return rule

        return register


def unspaced(target: OpOverload) -> str:
    """The name of an operation without its namespace, as rules are filed."""
    return str(target).partition(".")[2]


def windows(numbers: Any, sides: int) -> tuple[Any, ...]:
    """ATen's lists of one number, or one for each side, as one for each side."""
    items = tuple(numbers) if isinstance(numbers, list | tuple) else (numbers,)
    return items * sides if len(items) == 1 else items
