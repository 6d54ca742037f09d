"""One readable textual form of graphs and edits, and back: what is printed, diffed, journalled and kept as golden
files.

.. code-block:: text

    graph(x: f32[N,3,32,32]) {
      conv1 = conv2d(x) {out_channels=16, kernel=(3, 3), padding=(1, 1), bias=False} <weight=conv1.weight>
      relu = relu(conv1)
      return relu
    }

Attributes at their default and weight keys of the form ``id.role`` are left out. Parsing never evaluates anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from netgraft.errors import GraphError

from .carry import Carry, Concat, Factor, Fresh, Keep, Pad, Repeat, Slice
from .edit import Edit, Region
from .graph import Builder, Graph
from .node import Node, Value
from .ops import definition
from .types import Batch, DType, TensorType


def render(graph: Graph) -> str:
    """The graph as text."""
    inputs = ", ".join(f"{given.id}: {given.type}" for given in graph.inputs)
    lines = [f"graph({inputs}) {{", *(f"  {render_node(node)}" for node in graph)]
    lines.append(f"  return {', '.join(map(str, graph.outputs))}")
    return "\n".join([*lines, "}"]) + "\n"


def render_node(node: Node) -> str:
    """One node as a line of text."""
    defaults = node.definition.attrs
    attrs = [f"{k}={_literal(v)}" for k, v in node.attrs.items() if _differs(v, defaults[k])]
    keys = [f"{role}={key}" for role, key in node.weights.items() if key != f"{node.id}.{role}"]
    text = f"{node.id} = {node.op}({', '.join(map(str, node.inputs))})"
    if attrs:
        text += f" {{{', '.join(attrs)}}}"
    return text + (f" <{', '.join(keys)}>" if keys else "")


def _differs(value: object, default: object) -> bool:
    # 1, 1.0 and True are equal to Python and are not the same attribute.
    return value != default or type(value) is not type(default)


def _literal(value: Any) -> str:
    match value:
        case None | bool() | int() | float():
            return repr(value)
        case DType():
            return f"dtype.{value}"
        case str():
            return json.dumps(value)
        case Batch() | TensorType():
            return str(value)
        case tuple():
            return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    raise GraphError(f"an attribute cannot hold {value!r} ({type(value).__name__})")


_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<dtype>dtype\.\w+)|(?P<type>(?:f64|f32|f16|bf16|i64|i32|i16|i8|u8|bool|c64|c128)\[[^\]]*\])
    |(?P<batch>\d*N\b)|(?P<number>-?(?:inf|nan|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))|(?P<word>None|True|False)
    |(?P<punct>[(),])|(?P<name>[A-Za-z_]\w*=))""",
    re.VERBOSE,
)


class _Literals:
    """A recursive-descent reader of the literals in an attribute list."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def next(self) -> tuple[str, str]:
        match = _TOKEN.match(self.text, self.at)
        if not match:
            raise GraphError(f"cannot read {self.text[self.at :]!r} as an attribute")
        self.at = match.end()
        kind = match.lastgroup
        assert kind is not None
        return kind, match[kind]

    def done(self) -> bool:
        return not self.text[self.at :].strip()

    def value(self) -> Any:
        kind, token = self.next()
        match kind:
            case "string":
                return json.loads(token)
            case "dtype":
                return _dtype(token.removeprefix("dtype."))
            case "type":
                return parse_type(token)
            case "batch":
                return Batch(int(token[:-1] or 1))
            case "number":
                return int(token) if re.fullmatch(r"-?\d+", token) else float(token)
            case "word":
                return {"None": None, "True": True, "False": False}[token]
            case "punct" if token == "(":
                return self._tuple()
        raise GraphError(f"unexpected {token!r} in {self.text!r}")

    def _tuple(self) -> tuple[Any, ...]:
        items: list[Any] = []
        while True:
            start = self.at
            _, token = self.next()
            if token == ")":
                return tuple(items)
            if token == ",":
                continue
            self.at = start
            items.append(self.value())

    def attributes(self) -> dict[str, Any]:
        attrs: dict[str, Any] = {}
        while not self.done():
            kind, token = self.next()
            if token == ",":
                continue
            if kind != "name":
                raise GraphError(f"expected name=value, found {token!r} in {self.text!r}")
            attrs[token[:-1]] = self.value()
        return attrs


@lru_cache(maxsize=2**12)
def parse_type(text: str) -> TensorType:
    """``f32[N,3,32,32]`` as a type."""
    match = re.fullmatch(r"(\w+)\[([^\]]*)\]", text.strip())
    if not match:
        raise GraphError(f"{text!r} is no tensor type; expected something like f32[N,3,32,32]")
    dims: list[int | Batch] = []
    for part in filter(None, (p.strip() for p in match[2].split(","))):
        if not re.fullmatch(r"\d*N|\d+", part):
            raise GraphError(f"{part!r} in {text!r} is no dimension")
        dims.append(Batch(int(part[:-1] or 1)) if part.endswith("N") else int(part))
    return TensorType(tuple(dims), _dtype(match[1]))


def _dtype(name: str) -> DType:
    try:
        return DType(name)
    except ValueError:
        raise GraphError(f"unknown element type {name!r}; known: {', '.join(DType)}") from None


_ID = r"[^\s(){}<>,=:]+"
_HEAD = re.compile(r"graph\((?P<inputs>.*)\) \{")
_NODE = re.compile(
    rf"(?P<id>{_ID}) = (?P<op>\w+)\((?P<inputs>[^()]*)\)(?: \{{(?P<attrs>.*)\}})?(?: <(?P<weights>[^<>]*)>)?"
)


def parse(text: str) -> Graph:
    """The graph that :func:`render` wrote; GraphError names the line it cannot read."""
    lines = [line.strip() for line in text.strip().splitlines()]
    head = _HEAD.fullmatch(lines[0]) if lines else None
    if head is None or lines[-1] != "}":
        raise GraphError("a graph begins with 'graph(inputs) {' and ends with '}'")
    builder = Builder()
    for given in re.findall(rf"({_ID}): (\w+\[[^\]]*\])", head["inputs"]):
        builder.input(given[0], parse_type(given[1]))
    outputs: tuple[Value, ...] | None = None
    for number, line in enumerate(lines[1:-1], 2):
        try:
            if line.startswith("return "):
                outputs = _values(line.removeprefix("return "))
            elif line:
                builder.append(_node(line))
        except GraphError as error:
            raise GraphError(f"line {number}: {error}") from None
    if outputs is None:
        raise GraphError("the graph has no 'return' line")
    return builder.build(*outputs)


@lru_cache(maxsize=2**14)
def _node(line: str) -> Node:
    """The node of a line, with those of its weights that have keys of their own.

    A bank has the same few lines again and again, and more often yet the same attributes.
    """
    match = _NODE.fullmatch(line)
    if match is None:
        raise GraphError(f"cannot read {line!r}")
    id, op, inputs, attrs, weights = match.groups()
    keys = dict(pair.strip().split("=", 1) for pair in weights.split(", ")) if weights else {}
    return Node(id, op, _values(inputs), _attributes(op, attrs or ""), keys)


@lru_cache(maxsize=2**12)
def _attributes(op: str, text: str) -> Mapping[str, Any]:
    return definition(op).complete(_Literals(text).attributes())


def _values(text: str) -> tuple[Value, ...]:
    if not text.strip():
        return ()
    ids = [part.strip().partition(":") for part in text.split(",")]
    return tuple([Value(id, int(index or 0)) for id, _, index in ids if id])


def edit_to_data(edit: Edit) -> dict[str, Any]:
    """The edit as plain data (for JSON)."""
    return {
        "region": sorted(edit.region.nodes),
        "replacement": render(edit.replacement),
        "carry": {key: _carry_to_data(carry) for key, carry in edit.carry.items()},
        "origin": edit.origin,
        "exact": edit.exact,
    }


def edit_from_data(data: Mapping[str, Any]) -> Edit:
    """The edit that :func:`edit_to_data` wrote; GraphError where it is damaged."""
    try:
        return Edit(
            Region.of(data["region"]),
            parse(data["replacement"]),
            {key: _carry_from_data(carry) for key, carry in data["carry"].items()},
            data["origin"],
            data["exact"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise GraphError(f"damaged edit: {error}") from None


def _carry_to_data(carry: Carry) -> list[Any]:
    match carry:
        case Keep(key):
            return ["keep", key]
        case Slice(source, axis, indices):
            return ["slice", _carry_to_data(source), axis, list(indices)]
        case Repeat(source, axis, indices, divide):
            return ["repeat", _carry_to_data(source), axis, list(indices), divide]
        case Concat(sources, axis):
            return ["concat", [_carry_to_data(s) for s in sources], axis]
        case Pad(source, before, after):
            return ["pad", _carry_to_data(source), list(before), list(after)]
        case Factor(source, rank, blocks, taps, second):
            return ["factor", _carry_to_data(source), rank, blocks, list(taps), second]
        case Fresh(init, shape):
            return ["fresh", init, None if shape is None else list(shape)]


def _carry_from_data(data: list[Any]) -> Carry:
    match data:
        case ["keep", str(key)]:
            return Keep(key)
        case ["slice", source, int(axis), indices]:
            return Slice(_carry_from_data(source), axis, tuple(indices))
        case ["repeat", source, int(axis), indices, bool(divide)]:
            return Repeat(_carry_from_data(source), axis, tuple(indices), divide)
        case ["concat", sources, int(axis)]:
            return Concat(tuple(_carry_from_data(s) for s in sources), axis)
        case ["pad", source, before, after]:
            return Pad(_carry_from_data(source), tuple(before), tuple(after))
        case ["factor", source, int(rank), int(blocks), taps, bool(second)]:
            return Factor(_carry_from_data(source), rank, blocks, tuple(taps), second)
        case ["fresh", str(init), shape]:
            return Fresh(init, None if shape is None else tuple(shape))
    raise GraphError(f"unknown carry {data!r}")
