"""The ``forward`` of a block as statements: what is used once and at once is written inside what uses it, everything
else gets a name that is free by then.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from netgraft.convert.code import Apply, Argument, Code, Join, Slots, fill, flat, literal
from netgraft.convert.expressions import OPERATORS, BatchSize, Call, Constant, Device, Operand, Training, Weight
from netgraft.convert.scopes import Flow, Path, Scope
from netgraft.convert.to_torch import batch_source
from netgraft.ir import Node, Value

_NAMES: Final = ("x", "y", "z", "u", "v", "w")
_DEPTH: Final = 3
_LENGTH: Final = 72


@dataclass(frozen=True, slots=True)
class Statement:
    """``target = code``; ``code`` alone where there is no target."""

    target: str
    code: Code


@dataclass(frozen=True, slots=True)
class _Pending:
    """Code that is not written yet: it may still go into the one place that uses its value."""

    value: Value
    code: Code
    depth: int
    uses: tuple[Value, ...]


class Body:
    """Writes the statements of one block. ``access(path)`` is how the block reaches what lies at ``path``."""

    def __init__(self, flow: Flow, scope: Scope, slots: Slots, access: Callable[[Path], str], root: bool) -> None:
        self.flow = flow
        self.slots = slots
        self.access = access
        self.statements: list[Statement] = []
        self._pending: list[_Pending] = []
        self._left = Counter(v for item in scope.items for v in flow.reads_of(item)) + Counter(scope.leaving)
        self._names: dict[Value, str] = {}
        for value in scope.entering:
            self._names[value] = self._argument(value.node) if root else self._free_name(self._names.values())
        self.arguments = tuple(self._names[value] for value in scope.entering)
        for item in scope.items:
            self._write(item)
        taken = self._take(scope.leaving, nesting=0, limit=10 * _LENGTH)
        codes = [self._operand(value, taken) for value in scope.leaving]
        self._flush()
        result = codes[0] if len(codes) == 1 else _separated(codes)
        self.statements.append(Statement("return", result))

    def _argument(self, id: str) -> str:
        name = re.sub(r"[^0-9A-Za-z_]", "_", id)
        if not re.match(r"[A-Za-z]", name) or name in _RESERVED or keyword.iskeyword(name):
            name = f"input_{name}"
        while name in self._names.values():
            name += "_"
        return name

    def _free_name(self, used: Any) -> str:
        names = (*_NAMES, *(f"x{i}" for i in range(1, len(used) + 2)))
        return next(name for name in names if name not in used)

    def _write(self, item: Node | Scope) -> None:
        reads = self.flow.reads_of(item)
        nesting = self._nesting(item)
        if isinstance(item, Node) and _repeats(self.flow.expressions.get(item.id)):
            self._flush()
        taken = self._take(reads, nesting)
        code = self._code(item, taken)
        inner = [v for v in reads if v not in taken]
        uses = (*inner, *(v for p in taken.values() for v in p.uses))
        outputs = self.flow.outputs_of(item)
        depth = nesting + max((p.depth for p in taken.values()), default=0)
        if len(outputs) == 1 and self._left[outputs[0]] == 1:
            self._pending.append(_Pending(outputs[0], code, depth, uses))
        else:
            self._flush()
            self._assign(outputs, code, uses)

    def _nesting(self, item: Node | Scope) -> int:
        """How much deeper the item nests what it reads: operators between calls do not."""
        what = None if isinstance(item, Scope) else self.flow.expressions[item.id]
        return 0 if isinstance(what, Call) and what.target in OPERATORS else 1

    def _take(self, reads: tuple[Value, ...], nesting: int, limit: int = _LENGTH) -> dict[Value, _Pending]:
        """The pending code that goes into what reads ``reads``: all of it that is read, if it comes last and in order
        (nothing may run in another order than the graph's) and is short; otherwise everything pending is written.
        """
        waiting = {p.value for p in self._pending}
        wanted = [value for value in reads if value in waiting]
        if not wanted:
            return {}
        last = self._pending[-len(wanted) :]
        length = sum(len(_plain(p.code)) for p in last)
        if [p.value for p in last] == wanted and length <= limit and max(p.depth for p in last) + nesting <= _DEPTH:
            del self._pending[-len(wanted) :]
            return {p.value: p for p in last}
        self._flush()
        return {}

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        for p in pending:
            self._assign((p.value,), p.code, p.uses)

    def _assign(self, outputs: tuple[Value, ...], code: Code, uses: tuple[Value, ...]) -> None:
        self._left.subtract(uses)
        targets = []
        for value in outputs:
            if self._left[value] == 0:
                targets.append("_")
                continue
            live = {name for v, name in self._names.items() if self._left[v] > 0}
            self._names[value] = self._free_name(live)
            targets.append(self._names[value])
        target = "" if set(targets) <= {"_"} else ", ".join(targets)
        self.statements.append(Statement(target, code))

    def _operand(self, value: Value, taken: dict[Value, _Pending]) -> Code:
        return taken[value].code if value in taken else self._names[value]

    def _code(self, item: Node | Scope, taken: dict[Value, _Pending]) -> Code:
        if isinstance(item, Scope):
            return Apply(self.access(item.place.path), tuple(self._operand(v, taken) for v in item.entering))
        reads = self.flow.reads[item.id]
        if item.id in self.flow.layers:
            return Apply(self.access(self.flow.layers[item.id]), (self._operand(reads[0], taken),))
        return self._expression(self.flow.expressions[item.id], item, taken)

    def _expression(self, what: Any, node: Node, taken: dict[Value, _Pending], name: str = "") -> Code:
        reads = self.flow.reads[node.id]
        match what:
            case Operand(index):
                return self._operand(reads[index], taken)
            case Weight(role):
                return self.access(tuple(node.weights[role].split(".")))
            case BatchSize(times):
                value, axis, held = batch_source(self.flow.graph)
                size = f"{flat(self._operand(value, taken))}.shape[{axis}]"
                return size if times == held else Join((size, f" * {times} // {held}"), "*")
            case Training():
                return "self.training"
            case Device():
                return Join((_primary(self._operand(reads[0], taken)), ".device"))
            case Constant():
                return literal(what)
            case Call():
                return self._call(what, node, taken)
            case slice():
                start, stop = ("" if b is None else self.slots.add(b, "size") for b in (what.start, what.stop))
                return Join((start, ":", stop, *_step(what.step)))
            case list():
                return Apply("", tuple(self._expression(item, node, taken, name) for item in what), "[]")
            case None | bool() | str():
                return literal(what)
            case tuple() if any(isinstance(item, slice | Operand) for item in what):
                return _separated([self._expression(item, node, taken) for item in what])
        return self.slots.add(what, name or "size")

    def _call(self, call: Call, node: Node, taken: dict[Value, _Pending]) -> Code:
        args = [self._expression(arg, node, taken) for arg in call.args]
        options = [Argument(self._expression(v, node, taken, name), name) for name, v in call.kwargs.items()]
        if call.target == "[]":
            return Apply(_primary(args[0]), (args[1],), "[]")
        if call.target in OPERATORS:
            left, right = args
            chained = isinstance(left, Join) and left.operator == call.target and call.target in "+*"
            return Join((left if chained else _primary(left), f" {call.target} ", _primary(right)), call.target)
        if call.target.startswith("."):
            return Apply(Join((_primary(args[0]), call.target)), (*args[1:], *options))
        return Apply(call.target, (*args, *options))


_RESERVED: Final = frozenset({"self", "torch", "nn", "float", "getattr", "super", "F", "Tensor"})


def _repeats(expression: Any) -> bool:
    """Whether an expression mentions something that it reads more than once: that must not be computed as often."""
    found = Counter(_mentioned(expression))
    return any(count > 1 for count in found.values())


def _mentioned(expression: Any) -> Iterator[int]:
    match expression:
        case Operand(index):
            yield index
        case Call(_, args, kwargs):
            for part in (*args, *kwargs.values()):
                yield from _mentioned(part)
        case list() | tuple():
            for part in expression:
                yield from _mentioned(part)


def _step(step: int | None) -> tuple[str, ...]:
    return (f":{step}",) if step else ()


def _separated(codes: list[Code]) -> Code:
    parts: list[Code] = []
    for i, code in enumerate(codes):
        parts += [", ", code] if i else [code]
    return Join(tuple(parts))


def _primary(code: Code) -> Code:
    """``code`` as something that a dot, a bracket or an operator can follow."""
    return Apply("", (code,)) if isinstance(code, Join) and code.operator else code


def _plain(code: Code) -> str:
    """The text, about: what a slot or a class is called is not known yet."""
    return flat(fill(code, lambda index: "0000", lambda instance: "Class()"))
