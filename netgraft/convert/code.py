"""Pieces of Python code: expressions with slots for values that differ between the uses of a class; their layout."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final

from netgraft.convert.expressions import Constant

WIDTH: Final = 100
"""Columns that a line of written code has at most, where its names allow it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The ``index``-th value of whatever is written: a literal, or a parameter's name."""

    index: int


@dataclass(frozen=True, slots=True)
class Argument:
    """``keyword=value``, which is left out where ``value`` is the text ``default``."""

    value: Code
    keyword: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Apply:
    """``head(arguments)``, or another pair of brackets: what is broken into lines where it is too long."""

    head: Code
    arguments: tuple[Code | Argument, ...]
    brackets: str = "()"


@dataclass(frozen=True, slots=True)
class Join:
    """Pieces one after the other; ``operator`` is the infix operator they are operands of, if any."""

    parts: tuple[Code, ...]
    operator: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """An object of the ``template``-th class, whose slots begin at ``first``."""

    template: int
    first: int


Code = str | Slot | Apply | Join | Instance


@dataclass(frozen=True, slots=True)
class Origin:
    """What a slot's value is: the argument ``name`` of the layer at ``owner`` (empty in a forward)."""

    name: str
    owner: tuple[str, ...] = ()
    default: str | None = None


@dataclass
class Slots:
    """The values that one block is written with."""

    origins: list[Origin] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, value: Any, name: str, owner: tuple[str, ...] = (), default: str | None = None) -> Slot:
        """A new slot."""
        self.origins.append(Origin(name, owner, default))
        self.values.append(value)
        return Slot(len(self.values) - 1)

    def include(self, inner: Slots, owner: tuple[str, ...]) -> int:
        """Takes over the slots of the block ``owner`` inside; the index of the first."""
        first = len(self.values)
        self.origins += [replace(origin, owner=(*owner, *origin.owner)) for origin in inner.origins]
        self.values += inner.values
        return first


def literal(value: Any) -> str:
    """A value as Python text. Strings are quoted by :func:`repr`, so that nothing in them becomes code."""
    match value:
        case Constant("device", name):
            return f"torch.device({literal(name)})"
        case Constant(_, name):
            return f"torch.{name}"
        case float() if not math.isfinite(value):
            return f'float("{value}")'
        case complex() if not cmath.isfinite(value):
            return f"complex({literal(value.real)}, {literal(value.imag)})"
        case str():
            quoted = repr(value)
            return f'"{value}"' if quoted == f"'{value}'" and '"' not in value else quoted
        case tuple() | list():
            items = ", ".join(map(literal, value))
            if isinstance(value, list):
                return f"[{items}]"
            return f"({items},)" if len(value) == 1 else f"({items})"
        case None | bool() | int() | float() | complex():
            return repr(value)
    raise TypeError(f"no literal for {value!r}")


def fill(code: Code, slot: Callable[[int], str], instance: Callable[[Instance], Code]) -> Code:
    """``code`` with its slots and instances written out, and arguments at their default left out."""
    match code:
        case Slot(index):
            return slot(index)
        case Instance():
            return instance(code)
        case Join(parts):
            return Join(tuple(fill(part, slot, instance) for part in parts), code.operator)
        case Apply(head, arguments, brackets):
            filled: list[Code | Argument] = []
            for argument in arguments:
                if not isinstance(argument, Argument):
                    filled.append(fill(argument, slot, instance))
                    continue
                value = fill(argument.value, slot, instance)
                if argument.default is None or flat(value) != argument.default:
                    filled.append(Argument(value, argument.keyword))
            return Apply(fill(head, slot, instance), tuple(_runs(filled)), brackets)
    return code


def _runs(arguments: list[Code | Argument]) -> Iterator[Code | Argument]:
    """Four or more equal objects in a row become one loop."""
    for _, group in groupby(arguments):
        same = list(group)
        made = same[0]
        if len(same) > 3 and isinstance(made, Apply) and isinstance(made.head, str) and made.head not in ("", "()"):
            yield Join(("*(", made, f" for _ in range({len(same)}))"))
        else:
            yield from same


def flat(code: Code | Argument) -> str:
    """The text of filled ``code`` on one line."""
    match code:
        case Argument(value, keyword):
            return f"{keyword}={flat(value)}"
        case Join(parts):
            return "".join(map(flat, parts))
        case Apply(head, arguments, brackets):
            return f"{flat(head)}{brackets[0]}{', '.join(map(flat, arguments))}{brackets[1]}"
        case str():
            return code
    raise TypeError(f"{code!r} is not filled")


def layout(before: str, code: Code | Argument, after: str, indent: int) -> list[str]:
    """Lines of ``before``, filled ``code`` and ``after``, at ``indent``: on one line where it fits."""
    line = " " * indent + before + flat(code) + after
    if len(line) <= WIDTH:
        return [line]
    match code:
        case Argument(value, keyword):
            return layout(f"{before}{keyword}=", value, after, indent)
        case Join(parts):
            longest = max((p for p in parts if isinstance(p, Apply | Join)), key=lambda p: len(flat(p)), default=None)
            if longest is not None:
                at = parts.index(longest)
                return layout(
                    before + "".join(map(flat, parts[:at])),
                    longest,
                    "".join(map(flat, parts[at + 1 :])) + after,
                    indent,
                )
        case Apply(head, arguments, brackets) if not isinstance(head, str) and len(flat(head)) > WIDTH // 2:
            called = brackets[0] + ", ".join(map(flat, arguments)) + brackets[1]
            return layout(before, head, called + after, indent)
        case Apply("", (single,), "()"):
            # A comma at the end would make a tuple of it.
            return [" " * indent + before + "(", *layout("", single, "", indent + 4), " " * indent + ")" + after]
        case Apply(head, arguments, brackets) if arguments:
            inner = [line for argument in arguments for line in layout("", argument, ",", indent + 4)]
            return [" " * indent + before + flat(head) + brackets[0], *inner, " " * indent + brackets[1] + after]
    return [line]
