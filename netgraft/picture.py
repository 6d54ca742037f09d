"""A graph drawn in characters: a line for each node (``●``), a column for each value that is still to be read.

.. code-block:: text

    ○    in0: f32[N,16,32,32]
    ├─●  conv2d out_channels=16 3x3  f32[N,16,32,32]
    │ ●  batch_norm                  f32[N,16,32,32]
    ●─┘  add                         f32[N,16,32,32]
    ○    out0
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from netgraft.ir import Graph, Node, TensorType, Value

_Columns = list[Value | None]


def picture(graph: Graph) -> list[str]:
    """The lines of the drawing; what a node gives stands behind it."""
    unread = Counter(value for node in graph for value in dict.fromkeys(node.inputs)) + Counter(graph.outputs)
    columns: _Columns = []
    rows: list[tuple[str, str, str]] = []
    for given in graph.inputs:
        rows.append(
            (_row(columns, [], [_place(columns, Value(given.id))], symbol="○"), f"{given.id}: {given.type}", "")
        )
    for node in graph:
        before = list(columns)
        held = {value: columns.index(value) for value in dict.fromkeys(node.inputs)}
        unread -= Counter(list(held))
        ended = sorted(at for value, at in held.items() if not unread[value])
        for at in ended:
            columns[at] = None
        first, *others = [value for value in _outputs(graph, node) if unread[value]] or [node.value()]
        if ended:  # go on where the leftmost of what ends here stood
            columns[ended[0]] = first
        else:
            _place(columns, first, before)
        for value in others:
            _place(columns, value, before)
        written = [columns.index(value) for value in (first, *others)]
        read = [at for at in held.values() if at not in ended]
        types = ", ".join(str(graph.types[value]) for value in _outputs(graph, node))
        rails = _row(columns, read, written, [at for at in ended if at not in written])
        rows.append((rails, describe(node), types))
        if not unread[first]:
            columns[written[0]] = None
    for i, value in enumerate(graph.outputs):
        at = columns.index(value)
        unread[value] -= 1
        rows.append((_row(columns, [], [at], symbol="○"), f"out{i}", ""))
        if not unread[value]:
            columns[at] = None
    wide = max(len(rails) for rails, _, _ in rows)
    named = max(len(text) for _, text, given in rows if given) if len(graph) else 0
    return [f"{rails:{wide}}  {text:{named if given else 0}}  {given}".rstrip() for rails, text, given in rows]


def describe(node: Node) -> str:
    """A node in a few words: its operation and what of its attributes is not as usual."""
    words = [node.op]
    for name, value in node.attrs.items():
        if name == "kernel":
            words.append("x".join(map(str, value)))
        elif name in ("padding", "bias") or value == node.definition.attrs[name]:
            continue
        elif isinstance(value, tuple) and len(set(value)) == 1 and name in ("stride", "dilation"):
            words.append(f"{name}={value[0]}")
        elif not isinstance(value, TensorType):
            words.append(f"{name}={value}".replace(" ", ""))
    return " ".join(words)


def _outputs(graph: Graph, node: Node) -> list[Value]:
    return [node.value(i) for i in range(len(graph.output_types(node)))]


def _place(columns: _Columns, value: Value, before: Sequence[Value | None] = ()) -> int:
    """Puts ``value`` into the first column that is free, now and ``before``."""
    for at, held in enumerate(columns):
        if held is None and (at >= len(before) or before[at] is None):
            columns[at] = value
            return at
    columns.append(value)
    return len(columns) - 1


def _row(
    columns: Sequence[Value | None],
    read: Sequence[int],
    written: Sequence[int],
    ends: Sequence[int] = (),
    symbol: str = "●",
) -> str:
    """The rails of one line: what is ``read`` goes on, what ``ends`` does not, ``written`` begins with the node."""
    joined = [*read, *written, *ends]
    low, high = min(joined), max(joined)
    cells = []
    for at in range(len(columns)):
        if at == written[0]:
            cell = symbol
        elif at in read:
            cell = "├" if at == low else "┤" if at == high else "┼"
        elif at in ends:
            cell = "└" if at == low else "┘" if at == high else "┴"
        elif at in written:
            cell = "┌" if at == low else "┐" if at == high else "┬"
        else:
            cell = "│" if columns[at] is not None else "─" if low < at < high else " "
        cells.append(cell + ("─" if low <= at < high else " "))
    return "".join(cells).rstrip()
