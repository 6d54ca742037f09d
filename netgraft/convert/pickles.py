"""What a pickle holds, read as data: nothing is imported, no class instantiated and nothing called.

A pickle is a program for a small machine. This one understands the instructions that build plain data, keeps instances
of the classes it is told of as :class:`Record`, and refuses everything else. An ordered dict becomes a dict.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from netgraft.errors import SourceError


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """An instance: the full name of its class, what it was made from, and its attributes."""

    kind: str
    arguments: tuple[Any, ...]
    state: Any = None

    def __repr__(self) -> str:
        return f"<{self.kind}>"  # what it holds may be nested without end


@dataclass(frozen=True, slots=True)
class _Name:
    name: str


_ORDERED: Final = "collections.OrderedDict"
_NUMPY: Final = frozenset(
    ["numpy.dtype", "numpy.ndarray"]
    + [f"numpy.{core}.multiarray.{what}" for core in ("core", "_core") for what in ("scalar", "_reconstruct")]
)
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS: Final = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    ]
)
_TUPLES: Final = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(data: bytes, classes: Collection[str]) -> Any:
    """The object in a pickle: numbers, strings, lists, tuples, sets, dicts, and a :class:`Record` for each instance.

    ``classes`` are the full names of those that may occur; numpy's numbers become numbers, its arrays records.
    SourceError for any other class or function, for what is no pickle, and for a damaged one.
    """
    machine = _Machine(frozenset(classes) | _NUMPY | {_ORDERED})
    try:
        for instruction, argument, _ in pickletools.genops(data):
            if instruction.name == "STOP":
                return machine.stack.pop()
            machine.step(instruction.name, argument)
    except SourceError:
        raise
    except Exception as error:  # whatever damage does to the machine
        raise SourceError(f"is no pickle, or a damaged one ({type(error).__name__}: {error})") from None
    raise SourceError("is no pickle, or a damaged one (it ends early)")


def array_of(record: Record) -> np.ndarray[Any, Any]:
    """The array in a record that :func:`read_pickle` made of one of numpy's; TypeError for any other record, and for
    arrays of anything but numbers.
    """
    if not record.kind.endswith(".multiarray._reconstruct") or not isinstance(record.state, tuple):
        raise TypeError(f"expected an array, found {record.kind}")
    _, shape, kind, by_columns, raw = record.state
    return np.frombuffer(raw, dtype=_number_type(kind)).reshape(shape, order="F" if by_columns else "C")


class _Machine:
    """The stack, the marks on it and the memory of an unpickler."""

    def __init__(self, known: frozenset[str]) -> None:
        self.stack: list[Any] = []
        self._known = known
        self._marks: list[int] = []
        self._memory: dict[int, Any] = {}

    def step(self, instruction: str, argument: Any) -> None:
        """Runs one instruction."""
        stack = self.stack
        match instruction:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marks.append(len(stack))
            case "MEMOIZE":
                self._memory[len(self._memory)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memory[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memory[argument])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(set())
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "APPEND":
                item = stack.pop()
                _of(list, stack[-1]).append(item)
            case "APPENDS":
                items = self._marked()
                _of(list, stack[-1]).extend(items)
            case "ADDITEMS":
                items = self._marked()
                _of(set, stack[-1]).update(map(_key, items))
            case "SETITEM":
                items = [stack.pop(), stack.pop()]
                _fill(stack[-1], items[::-1])
            case "SETITEMS":
                items = self._marked()
                _fill(stack[-1], items)
            case "GLOBAL":
                self._name(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                self._name(f"{module}.{name}")
            case "NEWOBJ" | "REDUCE":
                arguments, made = _of(tuple, stack.pop()), _of(_Name, stack.pop())
                stack.append(_made(made.name, arguments))
            case "BUILD":
                state = stack.pop()
                _of(Record, stack[-1]).state = state
            case _ if instruction in _LITERALS:
                stack.append(argument)
            case _ if instruction in _CONSTANTS:
                stack.append(_CONSTANTS[instruction])
            case _ if instruction in _TUPLES:
                count = _TUPLES[instruction]
                items = [stack.pop() for _ in range(count)]
                stack.append(tuple(items[::-1]))
            case _:
                raise SourceError(f"uses the pickle instruction {instruction}, which plain data does not need")

    def _marked(self) -> list[Any]:
        """Takes everything above the last mark from the stack."""
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _name(self, name: str) -> None:
        if name not in self._known:
            raise SourceError(f"asks for {name}, which may run code; only plain data and graphs are read")
        self.stack.append(_Name(name))


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _fill(target: Any, items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        _of(dict, target)[_key(key)] = value


def _key(key: Any) -> Any:
    """What may be a key of a dict; no deep tuples, whose hashes would be computed recursively."""
    for part in key if isinstance(key, tuple) else (key,):
        if not isinstance(part, str | int):
            raise TypeError(f"expected a key of a dict, found {type(part).__name__}")
    return key


def _made(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == _ORDERED:
        if arguments:
            raise TypeError("expected an empty ordered dict")
        return {}
    if not name.endswith(".multiarray.scalar"):
        return Record(name, arguments)
    kind, raw = arguments
    return np.frombuffer(raw, dtype=_number_type(kind), count=1)[0].item()


def _number_type(kind: Any) -> np.dtype[Any]:
    """The type that numpy gives a number, from the record of one."""
    code = _of(Record, kind).arguments[0]
    order = kind.state[1] if kind.state else "="
    if not (re.fullmatch(r"[fiu][1248]|b1", code) and order in ("<", ">", "=", "|")):
        raise TypeError(f"expected a number, found numpy's {code}")
    found: np.dtype[Any] = np.dtype(code).newbyteorder(order)
    return found
