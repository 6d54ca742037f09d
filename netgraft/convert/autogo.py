"""Reading the computation graphs of AutoGO (Salameh et al., NeurIPS 2023) and GENNAPE (AAAI 2023).

Their files are pickles of three classes, or the same as JSON; ``convert/pickles.py`` reads the pickles as data. Images
are laid out N, H, W, C there and N, C, H, W here. There are no weights in them.

What their importer leaves out is put back: slices of one channel (NAS-Bench-101 cuts a wider output where a narrower
one is needed), and what turns a 1x1 image into a vector. TensorFlow's SAME padding becomes the same amount on both
sides where a kernel is odd. The order of a concatenation is that in which its operands were made.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr
from typing import Any, Final, TypeGuard

from netgraft.convert.pickles import Record, read_pickle
from netgraft.errors import GraphError, SourceError
from netgraft.ir import Batch, Builder, Graph, TensorType, Value

_CLASSES: Final = {
    f"model_src.comp_graph.tf_comp_graph.{name}" for name in ("ComputeGraph", "RegularNode", "WeightedNode")
}
# Configurations that lie beside a graph in some files, and are not looked at.
_CONFIGURATIONS: Final = {
    f"model_src.search_space.{name}"
    for name in (
        "hiaml_two_path.arch_configs.TwoPathNetConfig",
        "hiaml_two_path.arch_configs.SinglePathBlockConfig",
        "inception.arch_config.NetConfig",
        "inception.arch_config.BlockConfig",
    )
}
_REPR: Final = Repr()
_REPR.maxlevel = 2
_GRAPH_LIMIT: Final = 64 * 2**20
_COLLECTION_LIMIT: Final = 4 * 2**30

# Operations by their index in the files.
_INPUT, _OUTPUT, _CONV, _DEPTHWISE, _MATMUL, _CONCAT, _AVERAGE, _MEAN = 1, 2, 3, 4, 8, 11, 13, 19
_JOINS: Final = {9: "add", 10: "mul", _CONCAT: "concat"}
_POOLS: Final = {12: "max_pool2d", _AVERAGE: "avg_pool2d"}
_BY_ELEMENT: Final = {
    5: "batch_norm",
    6: "relu",
    7: "relu6",
    14: "sigmoid",
    15: "tanh",
    16: "silu",
    17: "gelu",
    25: "identity",
}


@dataclass(frozen=True)
class Entry:
    """A graph of a collection: its name and, if there is one, its label: the network's accuracy between 0 and 1."""

    name: str
    graph: Graph
    label: float | None


def load_autogo(path: Path) -> tuple[str, Graph]:
    """Name and graph in a pickle of one; SourceError, naming the file and the node, for what is none or is damaged."""
    found = _read(path, _GRAPH_LIMIT)
    if not _is_graph(found):
        raise SourceError(f"{path} holds no single graph of AutoGO's but {_describe(found)}")
    return _graph(found, str(path))


def autogo_entries(path: Path) -> Iterator[Entry]:
    """All graphs of a file: a pickle of one, or a labelled collection of GENNAPE's.

    Collections are pickles of a list of dicts (``compute graph`` and, where it was trained, ``acc``), or a JSON object
    of objects (``cg`` and ``max_perf``, in percent). SourceError as for :func:`load_autogo`.
    """
    if path.suffix == ".json":
        yield from _json_entries(path)
        return
    found = _read(path, _COLLECTION_LIMIT)
    if _is_graph(found):
        yield Entry(*_graph(found, str(path)), None)
        return
    if not isinstance(found, list):
        raise SourceError(f"{path} holds no graph and no list of graphs but {_describe(found)}")
    for number, item in enumerate(found):
        place = f"{path}, entry {number}"
        if not isinstance(item, dict) or not _is_graph(item.get("compute graph")):
            raise SourceError(f"{place} holds no 'compute graph'")
        yield Entry(*_graph(item["compute graph"], place), _label(item.get("acc"), 1.0, place))


def _json_entries(path: Path) -> Iterator[Entry]:
    try:
        found = json.loads(_bytes(path, _COLLECTION_LIMIT))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise SourceError(f"{path} is no JSON object of graphs")
    for key, item in found.items():
        place = f"{path}, entry {key!r}"
        if not isinstance(item, dict) or not isinstance(item.get("cg"), dict):
            raise SourceError(f"{place} holds no graph 'cg'")
        yield Entry(*_graph(item["cg"], place), _label(item.get("max_perf"), 100.0, place))


def _label(value: Any, whole: float, place: str) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or not 0 <= value <= whole:
        raise SourceError(f"{place}: the label {_brief(value)} is no accuracy between 0 and {whole:g}")
    return value / whole


def _read(path: Path, limit: int) -> Any:
    data = _bytes(path, limit)
    try:
        return read_pickle(data, _CLASSES | _CONFIGURATIONS)
    except SourceError as error:
        raise SourceError(f"{path} {error}") from None


def _bytes(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise SourceError(f"{path} is larger than the {limit // 2**20} MB that such a file may have")
        return path.read_bytes()
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None


def _is_graph(found: Any) -> bool:
    return isinstance(found, Record) and found.kind.endswith(".ComputeGraph")


def _describe(found: Any) -> str:
    if isinstance(found, Record):
        return f"a {found.kind.rpartition('.')[2]}"
    return f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, list) else "")


def _graph(found: Any, place: str) -> tuple[str, Graph]:
    data = _state(found)
    try:
        name = data.get("name")
        return name if isinstance(name, str) and name else "network", _Reader(data).read()
    except (SourceError, GraphError) as error:
        raise SourceError(f"{place}: {error}") from None


def _state(found: Any) -> Mapping[Any, Any]:
    state = found.state if isinstance(found, Record) else found
    return state if isinstance(state, dict) else {}


# One graph


@dataclass(frozen=True, slots=True)
class _Item:
    """A node as it is declared; sizes are (height, width, channels)."""

    name: str
    order: int
    op: int
    label: str
    given: tuple[int, int, int]
    gives: tuple[int, int, int]
    strides: tuple[int, int]
    kernel: tuple[int, int] | None
    metadata: Mapping[Any, Any]

    def error(self, text: str) -> SourceError:
        return SourceError(f"node {self.name!r} ({self.label}) {text}")


def _numbers(value: Any, count: int) -> tuple[int, ...] | None:
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    found = tuple(int(v) for v in value if _is_number(v) and 0 <= v < 2**31 and v == int(v))
    return found if len(found) == count else None


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _brief(value: Any) -> str:
    """``value`` as a few words, however much a hostile file has nested in it."""
    return _REPR.repr(value)


def _item(index: int, data: Mapping[Any, Any], weighted: bool) -> _Item:
    name, op, label = data.get("str_id"), data.get("op_type_idx"), data.get("label")
    if not isinstance(name, str) or not isinstance(op, int) or not isinstance(label, str):
        raise SourceError(f"node {index} lacks its str_id, op_type_idx or label")
    sizes = _numbers(data.get("resolution"), 6)
    if sizes is None or 0 in sizes:
        raise SourceError(f"node {name!r} ({label}) has the resolution {_brief(data.get('resolution'))}, not six sizes")
    strides = data.get("strides")
    steps = (1, 1, 1, 1) if strides is None else _numbers(strides, 4)
    if steps is None or 0 in steps:
        raise SourceError(f"node {name!r} ({label}) has the strides {_brief(strides)}, not four numbers")
    metadata = data.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise SourceError(f"node {name!r} ({label}) has the metadata {_brief(metadata)}")
    # Of a weight's shape only the kernel: the rest may be stale, or divided by something.
    kernel: tuple[int, ...] | None
    if weighted:
        shape = data.get("shape")
        kernel = _numbers(shape[2:4], 2) if isinstance(shape, list | tuple) and len(shape) == 4 else None
    else:
        window = _numbers(metadata.get("ksize"), 4)
        kernel = window[1:3] if window else None
    number = re.match(r"\d{1,18}(?=\||$)", name)
    return _Item(
        name,
        int(number[0]) if number else index,
        op,
        label,
        (sizes[0], sizes[2], sizes[4]),
        (sizes[1], sizes[3], sizes[5]),
        (steps[1], steps[2]),
        (kernel[0], kernel[1]) if kernel else None,
        metadata,
    )


class _Reader:
    """Reads one graph once."""

    def __init__(self, data: Mapping[Any, Any]) -> None:
        weighted, regular = data.get("weighted_nodes"), data.get("regular_nodes")
        if not isinstance(weighted, list) or not isinstance(regular, list) or not weighted + regular:
            raise SourceError("the graph has no list of weighted_nodes and regular_nodes")
        found = [(node, True) for node in weighted] + [(node, False) for node in regular]
        self._items = [_item(index, _state(node), w) for index, (node, w) in enumerate(found)]
        self._parents = self._edges(data.get("edge_pairs"))
        self._builder = Builder()
        self._values: dict[int, Value] = {}
        self._ids = _ids(self._items)

    def _edges(self, pairs: Any) -> Mapping[int, list[int]]:
        parents: defaultdict[int, set[int]] = defaultdict(set)
        for pair in pairs if isinstance(pairs, list) else [pairs]:
            edge = _numbers(pair, 2)
            if edge is None or max(edge) >= len(self._items):
                raise SourceError(f"the edge {_brief(pair)} joins no two of its {len(self._items)} nodes")
            parents[edge[1]].add(edge[0])
        # Operands in the order in which they were made.
        return {node: sorted(found, key=self._key) for node, found in parents.items()}

    def _key(self, index: int) -> tuple[int, int]:
        return self._items[index].order, index

    def read(self) -> Graph:
        """The graph; SourceError, naming the node, for one that is damaged."""
        order = self._ordered()
        inputs = [index for index in order if self._items[index].op == _INPUT]
        for number, index in enumerate(inputs):
            height, width, channels = self._items[index].gives
            name = "x" if len(inputs) == 1 else f"x{number}"
            self._values[index] = self._builder.input(name, TensorType((Batch(), channels, height, width)))
        outputs = []
        for index in order:
            item, parents = self._items[index], self._parents.get(index, [])
            if item.op == _INPUT:
                continue
            if any(self._items[parent].op == _OUTPUT for parent in parents):
                raise item.error("reads an output of the graph")
            operands = [self._values[parent] for parent in parents]
            if not operands or (item.op not in _JOINS and len(operands) > 1):
                raise item.error(f"reads {len(operands)} values, not one")
            if item.op == _OUTPUT:
                outputs.append(operands[0])
                continue
            try:
                value = self._values[index] = self._translate(index, item, operands)
            except GraphError as error:
                raise item.error(f"cannot be built: {error}") from None
            if self._size(value) != item.gives:
                raise item.error(f"gives {_shape(self._size(value))}, but is declared to give {_shape(item.gives)}")
        return self._builder.build(*outputs)

    def _ordered(self) -> list[int]:
        """The nodes from which an output can be reached, each after what it reads, otherwise in their own order."""
        needed = {index for index, item in enumerate(self._items) if item.op == _OUTPUT}
        if not needed:
            raise SourceError("the graph has no output node")
        stack = list(needed)
        while stack:
            for parent in self._parents.get(stack.pop(), ()):
                if parent not in needed:
                    needed.add(parent)
                    stack.append(parent)
        waiting = {index: len(self._parents.get(index, ())) for index in needed}
        children: defaultdict[int, list[int]] = defaultdict(list)
        for index in needed:
            for parent in self._parents.get(index, ()):
                children[parent].append(index)
        ready = [(self._key(index), index) for index, count in waiting.items() if not count]
        heapq.heapify(ready)
        ordered: list[int] = []
        while ready:
            _, index = heapq.heappop(ready)
            ordered.append(index)
            for child in children[index]:
                waiting[child] -= 1
                if not waiting[child]:
                    heapq.heappush(ready, (self._key(child), child))
        if len(ordered) < len(needed):
            stuck = min(needed - set(ordered), key=self._key)
            raise self._items[stuck].error("lies on a cycle, or behind one")
        return ordered

    # One node

    def _size(self, value: Value) -> tuple[int, int, int]:
        shape = self._builder.type(value).concrete()
        return (shape[2], shape[3], shape[1]) if len(shape) == 4 else (1, 1, shape[1])

    def _rank(self, value: Value) -> int:
        return self._builder.type(value).rank

    def _add(self, index: int, op: str, *inputs: Value, **attrs: Any) -> Value:
        return self._builder.add(op, *inputs, id=self._builder.fresh_id(self._ids[index]), **attrs)

    def _repair(self, op: str, index: int, x: Value, **attrs: Any) -> Value:
        return self._builder.add(op, x, id=self._builder.fresh_id(f"{self._ids[index]}.{op}"), **attrs)

    def _image(self, index: int, x: Value) -> Value:
        """A vector as an image of one pixel."""
        if self._rank(x) == 4:
            return x
        return self._repair("reshape", index, x, shape=(Batch(), self._size(x)[2], 1, 1))

    def _cut(self, index: int, x: Value, channels: int) -> Value:
        """``x``, without its last channel where that is one too many."""
        if self._size(x)[2] != channels + 1 or self._rank(x) != 4:
            return x
        return self._repair("slice", index, x, dim=1, start=0, stop=channels)

    def _translate(self, index: int, item: _Item, operands: Sequence[Value]) -> Value:
        if item.op in _JOINS:
            return self._join(index, item, operands)
        x = self._cut(index, operands[0], item.given[2])
        if item.op == _MATMUL:
            x = self._repair("flatten", index, x) if self._rank(x) == 4 else x
            if self._size(x)[2] != item.given[2]:
                raise item.error(f"reads {self._size(x)[2]} features, but is declared to read {item.given[2]}")
            return self._add(index, "linear", x, out_features=item.gives[2], bias=_has_bias(item))
        if self._size(x) != item.given:
            raise item.error(f"reads {_shape(self._size(x))}, but is declared to read {_shape(item.given)}")
        if item.op in _BY_ELEMENT:
            return self._add(index, _BY_ELEMENT[item.op], x)
        if item.op in (_CONV, _DEPTHWISE):
            return self._convolution(index, item, self._image(index, x))
        if item.op in _POOLS:
            return self._pool(index, item, self._image(index, x))
        if item.op == _MEAN:
            return self._add(index, "mean", self._image(index, x), dims=(2, 3))
        raise item.error(f"has the operation {item.op}, which cannot be read; {_known()}")

    def _join(self, index: int, item: _Item, operands: Sequence[Value]) -> Value:
        if any(self._rank(x) == 4 for x in operands):
            operands = [self._image(index, x) for x in operands]
        if item.op != _CONCAT:
            operands = [self._cut(index, x, item.gives[2]) for x in operands]
        return operands[0] if len(operands) == 1 else self._add(index, _JOINS[item.op], *operands)

    def _convolution(self, index: int, item: _Item, x: Value) -> Value:
        kernel, stride = _window(item)
        dilation = _pair(item, "dilations") or (1, 1)
        extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
        (top, bottom), (left, right) = (_sides(item, axis, extent[axis], stride[axis]) for axis in (0, 1))
        padding = (top, left)
        if top != bottom or left != right:
            x, padding = self._repair("pad", index, x, pads=(left, right, top, bottom)), (0, 0)
        return self._add(
            index,
            "conv2d",
            x,
            out_channels=item.gives[2],
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=item.given[2] if item.op == _DEPTHWISE else 1,
            bias=_has_bias(item),
        )

    def _pool(self, index: int, item: _Item, x: Value) -> Value:
        kernel, stride = _window(item)
        sides = [_sides(item, axis, kernel[axis], stride[axis]) for axis in (0, 1)]
        # A window may start inside and end one beyond the map: that is what ceil_mode allows.
        beyond = (0, 1) in sides
        if any(before != after and (before, after) != (0, 1) for before, after in sides):
            raise item.error(f"pads {sides} cells before and after, which no pooling here can")
        attrs: dict[str, Any] = {"count_include_pad": False} if item.op == _AVERAGE else {}
        return self._add(
            index,
            _POOLS[item.op],
            x,
            kernel=kernel,
            stride=stride,
            padding=(sides[0][0], sides[1][0]),
            ceil_mode=beyond,
            **attrs,
        )


def _window(item: _Item) -> tuple[tuple[int, int], tuple[int, int]]:
    if item.kernel is None or 0 in item.kernel:
        raise item.error("does not say how large its kernel is")
    return item.kernel, item.strides


def _pair(item: _Item, key: str) -> tuple[int, int] | None:
    """Height and width of what ``metadata`` says in N, H, W, C."""
    if item.metadata.get(key) is None:
        return None
    found = _numbers(item.metadata[key], 4)
    if found is None or 0 in found:
        raise item.error(f"has the {key} {_brief(item.metadata[key])}, not four numbers")
    return found[1], found[2]


def _sides(item: _Item, axis: int, extent: int, stride: int) -> tuple[int, int]:
    """Cells padded before and after along an axis."""
    explicit = item.metadata.get("pad_w" if axis else "pad_h")
    if explicit is not None:
        pads = _numbers(explicit, 2)
        if pads is None:
            raise item.error(f"has the padding {_brief(explicit)}, not a pair of numbers")
        return pads[0], pads[1]
    padding = item.metadata.get("padding", "same")
    known = padding.lower() if isinstance(padding, str) else None
    if known == "valid":
        return 0, 0
    if known != "same":
        raise item.error(f"has the padding {_brief(padding)}; known are 'same' and 'valid'")
    if extent % 2:
        return extent // 2, extent // 2
    size = item.given[axis]
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def _has_bias(item: _Item) -> bool:
    return bool(item.metadata.get("use_bias"))


def _shape(size: tuple[int, int, int]) -> str:
    return "x".join(map(str, size))


def _known() -> str:
    names = ("conv2d", "depthwise", "matmul", "mean", *_JOINS.values(), *_BY_ELEMENT.values(), *_POOLS.values())
    return f"known are: {', '.join(names)}"


def _ids(items: Sequence[_Item]) -> list[str]:
    """Ids like module paths, from TensorFlow's names: without the network's own name, and without what is repeated."""
    paths = [item.name.partition("|")[2].split("/") for item in items]
    roots = {path[0] for path in paths if len(path) > 1}
    ids = []
    for item, path in zip(items, paths, strict=True):
        parts = dict.fromkeys(
            re.sub(r"\W", "_", part) for part in path if part and not (len(roots) == 1 and part in roots)
        )
        ids.append(".".join(parts) or re.sub(r"\W", "_", item.label) or "node")
    return ids
