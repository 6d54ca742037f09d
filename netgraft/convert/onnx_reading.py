"""Going through an ONNX graph: what each of its values is, and what the graph of ours becomes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import AttributeProto, helper
from torch import nn

from netgraft.convert import onnx_foreign as foreign
from netgraft.convert.frozen import DTYPES as TORCH_TO_OURS
from netgraft.convert.onnx_file import array, opset, subgraphs
from netgraft.convert.onnx_foreign import DTYPES
from netgraft.convert.onnx_known import Array, NotFoldable, at_batch, dims, fold, is_symbolic, known_shape
from netgraft.convert.onnx_writer import NUMPY, ONNX_DTYPES
from netgraft.convert.operations import TORCH_DTYPES, operation
from netgraft.errors import GraphError, SourceError
from netgraft.ir import Batch, Builder, DType, Graph, TensorType, Value
from netgraft.ir.types import Dim

OPSET: Final = 20
"""The opset that foreign nodes of ONNX's own domain are brought to where they mean something else in their own."""

Shape = tuple[int, ...]


class Untranslatable(Exception):
    """A node that the op table has nothing for; it becomes a frozen one, and the text says why."""


Rule = Callable[["Call"], "Value | Sequence[Value]"]
"""Translates a node: returns the values of its outputs."""


class Call:
    """One ONNX node, with what is known of its inputs; ``emit`` adds nodes of ours that compute it."""

    def __init__(self, reader: Reader, node: onnx.NodeProto) -> None:
        self.reader, self.node = reader, node
        self.attrs = _attributes(node)

    def has(self, index: int) -> bool:
        """Whether the ``index``-th input is there."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def is_known(self, index: int) -> bool:
        """Whether an input is a constant, all numbers."""
        return self.has(index) and self.node.input[index] in self.reader.known

    def known(self, index: int) -> Array:
        """An input that is a constant or a shape; Untranslatable where only running the network tells."""
        if not self.is_known(index):
            raise Untranslatable(f"input {index} is computed from the network's inputs")
        return self.reader.known[self.node.input[index]]

    def constant(self, index: int) -> Array:
        """An input that is a constant without the batch size in it."""
        found = self.known(index)
        if is_symbolic(found):
            raise Untranslatable(f"input {index} depends on the batch size")
        return found

    def number(self, index: int) -> float | int | bool:
        """An input that is a constant number."""
        found = self.constant(index)
        if found.size != 1:
            raise Untranslatable(f"input {index} is no single number")
        number: float | int | bool = found.reshape(-1)[0].item()
        return number

    def value(self, index: int) -> Value:
        """An input as a value of our graph."""
        if not self.has(index):
            raise Untranslatable(f"input {index} is missing")
        return self.reader.value(self.node.input[index])

    def values(self) -> list[Value]:
        """All inputs as values of our graph."""
        return [self.value(i) for i in range(len(self.node.input))]

    def type(self, value: Value) -> TensorType:
        """The type of a value."""
        return self.reader.builder.type(value)

    def ints(self, name: str, index: int | None = None) -> list[int] | None:
        """Numbers that are an attribute, or in later opsets the ``index``-th input."""
        if index is not None and self.has(index):
            return [int(n) for n in self.constant(index).reshape(-1)]
        return list(map(int, self.attrs[name])) if name in self.attrs else None

    def shape(self, index: int) -> tuple[Dim, ...]:
        """An input that is a shape."""
        try:
            return dims(self.known(index))
        except NotFoldable as error:
            raise Untranslatable(str(error)) from None

    def weight(self, index: int, change: Callable[[Array], Array] | None = None) -> str:
        """The key of an input that is a weight, stored as ``change`` makes it."""
        found = self.constant(index)
        return self.reader.key(self.node.input[index], change(found) if change else found)

    def emit(
        self, op: str, *inputs: Value, at: str = "", weights: Mapping[str, str] | None = None, **attrs: Any
    ) -> Value:
        """Adds a node of ours; ``at`` tells apart the ids of several."""
        key = (weights or {}).get("weight", "")
        stem = key.removesuffix(".weight") if key.endswith(".weight") else id_of(self.node, layer=bool(weights))
        id = self.reader.unique(f"{stem}.{at}" if at else stem)
        return self.reader.builder.add(op, *inputs, id=id, weights=self.reader.claim(id, weights or {}), **attrs)

    def stored(self, tensor: Array, at: str) -> Value:
        """A constant that belongs to this node."""
        return self.reader.stored(f"{id_of(self.node)}.{at}", tensor, trainable=False)

    def torch(self, target: str, *args: Any, inputs: Sequence[Value], at: str = "", **kwargs: Any) -> Value:
        """Adds a frozen node that is one of PyTorch's operations with one output."""
        pairs = tuple(kwargs.items())
        types = tuple(self.type(value) for value in inputs)
        returned = _torch_type(target, args, pairs, types)
        reason = f"an operation of PyTorch's, for ONNX's {self.node.op_type}"
        return self.emit(
            "frozen", *inputs, at=at, target=target, args=args, kwargs=pairs, types=(returned,), reason=reason
        )


class Reader:
    """Turns an ONNX graph into ours, node by node. ``rules`` has one for each operation that can be translated."""

    def __init__(self, model: onnx.ModelProto, rules: Mapping[str, Rule], shapes: Sequence[Shape] | None) -> None:
        self.builder = Builder()
        self.known: dict[str, Array] = {}
        self.weights: dict[str, npt.NDArray[Any]] = {}
        self.total = self.translated = 0
        self._model, self._rules, self._shapes = model, rules, shapes
        self._opset = opset(model)
        self._values: dict[str, Value] = {}
        self._stored: dict[str, str] = {}
        self._ids: set[str] = set()
        self._sizes: dict[str, Array] = {}
        self._claims: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        self._claimed: set[str] = set()
        self._makers: dict[str, onnx.NodeProto] = {}
        self._initial: set[str] = set()
        self._reads: set[str] = set()
        self._shown: dict[str, TensorType] = {}

    def read(self) -> Graph:
        """The graph; the weights are in :attr:`weights`. SourceError for what a graph cannot hold."""
        graph = self._model.graph
        for tensor in graph.initializer:
            if tensor.name in self.known:
                raise SourceError(f"two tensors are called {tensor.name!r}")
            self.known[tensor.name] = array(tensor)
        self._initial = set(self.known)
        self._reads = _all_reads(graph)
        given = [value for value in graph.input if value.name not in self.known]
        if self._shapes is not None and len(self._shapes) != len(given):
            raise SourceError(f"it has {len(given)} inputs, of which example inputs give {len(self._shapes)}")
        for i, value in enumerate(given):
            type_ = _input_type(value, self._shapes[i] if self._shapes else None)
            if value.name in self._values:
                raise SourceError(f"two inputs are called {value.name!r}")
            self._ids.add(value.name)
            self._values[value.name] = self.builder.input(value.name, type_)
        for info in (*graph.value_info, *graph.output):
            if (type_or_none := _fixed_type(info)) is not None:
                self._shown[info.name] = type_or_none
        self._nodes(_ordered(graph.node, {*self.known, *self._values}))
        return self.builder.build(*(self._output(value.name, i) for i, value in enumerate(graph.output)))

    def _output(self, name: str, index: int) -> Value:
        value = self.value(name)
        only = len(self._model.graph.output) == 1
        if name == ("output" if only else f"output{index}"):
            return value
        # An identity at the end keeps the output's name.
        id = self.unique(name)
        return self.builder.add("identity", value, id=id)

    def _nodes(self, nodes: Sequence[onnx.NodeProto]) -> None:
        for node in nodes:
            for name in filter(None, node.output):
                if name in self.known or name in self._values or name in self._makers:
                    raise SourceError(f"two nodes give {name!r}")
                self._makers[name] = node
            try:
                self._node(node)
            except GraphError as error:
                raise SourceError(f"the node {_called(node)} {_UNFIT}: {error}") from None

    def _node(self, node: onnx.NodeProto) -> None:
        own = node.domain in ("", "ai.onnx")
        call = Call(self, node)
        if own and self._fold(call):
            return
        self.total += 1
        reason = f"no operation of ours computes {node.op_type}" if own else f"of the domain {node.domain}"
        rule = self._rules.get(node.op_type) if own else None
        if rule is not None:
            # What a rule began before it gave up is left unread, and dropped in the end.
            try:
                found = rule(call)
                values = [found] if isinstance(found, Value) else list(found)
                if any(name in self._reads for name in node.output[len(values) :]):
                    raise Untranslatable("more outputs than one are used")
                self._values.update({name: value for name, value in zip(node.output, values, strict=False) if name})
                self.translated += 1
                return
            except Untranslatable as error:
                reason = str(error)
            except GraphError as error:
                reason = f"{_UNFIT}: {error}"
            except (ValueError, TypeError, LookupError, AssertionError, ArithmeticError) as error:
                reason = f"its form is not foreseen ({type(error).__name__}: {error})"
        self._freeze(node, reason)

    def _fold(self, call: Call) -> bool:
        """Whether the node's outputs are known without running the network."""
        node = call.node
        if node.op_type == "Constant":
            found = [_constant(call)]
        elif node.op_type in ("Shape", "Size") and call.has(0):
            name = node.input[0]
            shape = self.known[name].shape if name in self.known else self.builder.type(self.value(name)).shape
            if node.op_type == "Shape":
                found = [known_shape(shape[slice(call.attrs.get("start", 0), call.attrs.get("end"))])]
            elif all(isinstance(d, int) for d in shape):
                found = [np.array(prod(d for d in shape if isinstance(d, int)), np.int64)]
            else:
                return False
        elif node.op_type == "If" and call.is_known(0) and not is_symbolic(self.known[node.input[0]]):
            return self._branch(call)
        else:
            names = list(node.input)
            if not names or any(name and name not in self.known for name in names):
                return False
            try:
                extra = {"outputs": len(node.output)}
                found = fold(node.op_type, [self.known[n] if n else None for n in names], call.attrs | extra)
            except NotFoldable:
                return False
            if node.op_type in _KEEPING and names[0] in self._stored | dict.fromkeys(self._initial, ""):
                self._stored[node.output[0]] = self._stored.get(names[0]) or names[0]
        self.known.update(zip(filter(None, node.output), found, strict=False))
        return True

    def _branch(self, call: Call) -> bool:
        """Reads the branch that a constant chooses in the place of the If."""
        chosen = call.attrs["then_branch" if self.known[call.node.input[0]].reshape(-1)[0] else "else_branch"]
        for tensor in chosen.initializer:
            self.known[tensor.name] = array(tensor)
        self._nodes(_ordered(chosen.node, {*self.known, *self._values}))
        for name, inner in zip(call.node.output, (o.name for o in chosen.output), strict=True):
            if inner in self.known:
                self.known[name] = self.known[inner]
            else:
                self._values[name] = self.value(inner)
        return True

    def _freeze(self, node: onnx.NodeProto, reason: str) -> None:
        """The node as a foreign one."""
        version = opset(self._model, node.domain)
        if node.domain in ("", "ai.onnx"):
            newer = _modernised(node, version, self)
            if newer is not None:
                self._nodes_again(newer, node)
                return
        captured = foreign.captured(node)
        names = list(dict.fromkeys(name for name in (*node.input, *captured) if name))
        values = [self.value(name) for name in names]
        types = [self.builder.type(value) for value in values]
        data = foreign.encode(node, version, {name: i for i, name in enumerate(names)}, captured)

        def known(size: int) -> dict[int, Array]:
            found = ((i, self._sizes.get(name, self.known.get(name))) for i, name in enumerate(names))
            return {i: at_batch(array, size) for i, array in found if array is not None}

        shown = [self._shown.get(name) for name in node.output if name]
        returned = foreign.infer(data, types, known) or tuple(type_ for type_ in shown if type_ is not None)
        if len(returned) != len(shown):
            if reason.startswith(_UNFIT):
                raise SourceError(f"the node {_called(node)} {reason}")
            standard = onnx.defs.has(node.op_type, domain=node.domain)
            why = "it depends on the values of tensors" if standard else "the file does not say it (value_info)"
            raise SourceError(
                f"what the node {_called(node)} returns has no shape that is known beforehand: {why}. Cut the network "
                "before it with onnx.utils.extract_model"
            )
        target, args, kwargs = data
        id = self.unique(id_of(node))
        value = self.builder.add(
            "frozen", *values, id=id, target=target, args=args, kwargs=kwargs, types=returned, reason=reason
        )
        for index, name in enumerate(filter(None, node.output)):
            self._values[name] = Value(value.node, index)

    def _nodes_again(self, nodes: Sequence[onnx.NodeProto], old: onnx.NodeProto) -> None:
        for name in filter(None, old.output):
            self._makers.pop(name, None)
        self.total -= 1
        version, self._opset = self._opset, OPSET
        versions = self._model.opset_import
        before = [entry.version for entry in versions]
        for entry in versions:
            if entry.domain in ("", "ai.onnx"):
                entry.version = OPSET
        try:
            self._nodes(nodes)
        finally:
            self._opset = version
            for entry, was in zip(versions, before, strict=True):
                entry.version = was

    def value(self, name: str) -> Value:
        """What ``name`` stands for as a value of our graph."""
        if name in self._values:
            return self._values[name]
        if name not in self.known:
            raise SourceError(f"a node reads {name!r}, which nothing before it gives")
        found = self.known[name]
        if is_symbolic(found):
            # A node needs the batch size as a tensor: the shape's arithmetic has to run after all.
            maker = self._makers[name]
            self._sizes[name] = self.known.pop(name)
            self._freeze(maker, "it computes with the batch size")
            return self._values[name]
        floats = found.dtype.kind == "f" or found.dtype.name == "bfloat16"
        trained = name in self._initial and floats and found.size > 1 and bool(np.isfinite(found).all())
        self._values[name] = self.stored(name, found, trainable=trained)
        return self._values[name]

    def stored(self, name: str, tensor: Array, *, trainable: bool) -> Value:
        """A constant node."""
        kinds = {np.dtype(theirs): ours for ours, theirs in NUMPY.items()}
        if tensor.dtype not in kinds:
            raise SourceError(f"the tensor {name!r} has elements of type {tensor.dtype}, which a graph does not have")
        key = self.key(name, tensor)
        type_ = TensorType(tuple(tensor.shape), kinds[tensor.dtype])
        return self.builder.add(
            "constant", id=self.unique(key), weights={"value": key}, type=type_, trainable=trainable
        )

    def key(self, name: str, tensor: Array) -> str:
        """The key under which ``tensor``, which the file calls ``name``, is a weight; the same tensor has one key."""
        stem = _clean_key(self._stored.get(name) or name)
        key, number = stem, 1
        while key in self.weights and not _equal(self.weights[key], tensor):
            number += 1
            key = f"{stem}_{number}"
        if key not in self.weights:
            if any(other.startswith(f"{key}.") or key.startswith(f"{other}.") for other in self.weights):
                key = self.fresh_key(key.replace(".", "_"))
            self.weights[key] = np.ascontiguousarray(tensor).reshape(tensor.shape)
        return key

    def claim(self, id: str, weights: Mapping[str, str]) -> Mapping[str, str]:
        """The keys of a node's weights: those that the file's names give, except that numbers which are no names give
        way to the node's id, and that vectors which an exporter found to be equal are not taken for shared.
        """
        given = tuple(weights.items())
        if given not in self._claims:
            kept = {}
            for role, key in given:
                apart = key in self._claimed and self.weights[key].ndim == 1
                self._claimed.add(key)
                if apart or _NUMBERED.fullmatch(key):
                    own = self.fresh_key(f"{_clean_key(id)}.{role}")
                    self.weights[own] = self.weights[key]
                    key = own
                kept[role] = key
            self._claims[given] = kept
        return self._claims[given]

    def fresh_key(self, stem: str) -> str:
        """A key not used yet."""
        key, number = stem, 1
        while key in self.weights:
            number += 1
            key = f"{stem}_{number}"
        return key

    def unique(self, stem: str) -> str:
        """An id not used yet that begins with ``stem``."""
        id, number = stem, 1
        while id in self._ids:
            number += 1
            id = f"{stem}_{number}"
        self._ids.add(id)
        return id


_UNFIT: Final = "does not fit what it reads"

_NUMBERED: Final = re.compile(r"onnx::\w+_\d+|val_\d+")
"""What PyTorch's exporters call a tensor that they computed themselves."""

_KEEPING: Final = frozenset(["Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Cast"])
"""Operations that leave a weight its name."""


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and (a is b or a.tobytes() == b.tobytes())


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            found[attribute.name] = array(attribute.t)
        elif attribute.type == AttributeProto.STRING:
            found[attribute.name] = attribute.s.decode("utf-8", "replace")
        elif attribute.type in (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.INTS, AttributeProto.FLOATS):
            value = helper.get_attribute_value(attribute)
            found[attribute.name] = value if isinstance(value, int | float) else list(value)
        elif attribute.type == AttributeProto.GRAPH:
            found[attribute.name] = attribute.g
    return found


def _constant(call: Call) -> Array:
    attrs = call.attrs
    for name, kind in (("value_float", np.float32), ("value_floats", np.float32)):
        if name in attrs:
            return np.array(attrs[name], kind)
    for name in ("value_int", "value_ints"):
        if name in attrs:
            return np.array(attrs[name], np.int64)
    if "value" in attrs:
        found: Array = attrs["value"]
        return found
    raise SourceError(f"the constant {_called(call.node)} holds no numbers")


def _input_type(value: onnx.ValueInfoProto, shape: Shape | None) -> TensorType:
    """The type of a graph input: the first axis is the batch where the file leaves it open; sizes that it leaves open
    elsewhere come from ``shape``.
    """
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or kind.elem_type not in DTYPES:
        raise SourceError(f"the input {value.name!r} is no tensor of numbers that a graph can hold")
    if not kind.HasField("shape"):
        raise SourceError(f"the input {value.name!r} has no shape; give it one with onnx.tools.update_model_dims")
    axes = kind.shape.dim
    if shape is not None and len(shape) != len(axes):
        raise SourceError(f"the input {value.name!r} has {len(axes)} dimensions, the example {len(shape)}")
    batch = axes[0].dim_param if axes and not axes[0].HasField("dim_value") else None
    found: list[Dim] = []
    for i, axis in enumerate(axes):
        if axis.HasField("dim_value"):
            if axis.dim_value < 0:
                raise SourceError(f"the input {value.name!r} is {axis.dim_value} wide along {i}")
            if shape is not None and i and shape[i] != axis.dim_value:
                have = f"the input {value.name!r} is {axis.dim_value} wide along {i}"
                raise SourceError(f"{have}, the example {shape[i]}")
            found.append(axis.dim_value)
        elif i == 0 or (batch and axis.dim_param == batch):
            found.append(Batch())
        elif batch and (times := re.fullmatch(rf"(\d+)\*{re.escape(batch)}", axis.dim_param)):
            found.append(Batch(int(times[1])))
        elif shape is not None:
            found.append(shape[i])
        else:
            names = ", ".join(str(a.dim_value) if a.HasField("dim_value") else a.dim_param or "?" for a in axes)
            raise SourceError(
                f"the input {value.name!r} [{names}] leaves more than the batch open: say how large it is, without the "
                "batch (--input 3x224x224, or input_shape=(3, 224, 224))"
            )
    return TensorType(tuple(found), DTYPES[kind.elem_type])


def _fixed_type(value: onnx.ValueInfoProto) -> TensorType | None:
    """A type that the file states, if only its first axis is open."""
    kind = value.type.tensor_type
    if kind.elem_type not in DTYPES or not kind.HasField("shape"):
        return None
    found: list[Dim] = []
    for i, axis in enumerate(kind.shape.dim):
        if not axis.HasField("dim_value") and i:
            return None
        found.append(axis.dim_value if axis.HasField("dim_value") else Batch())
    return TensorType(tuple(found), DTYPES[kind.elem_type])


def _ordered(nodes: Sequence[onnx.NodeProto], ready: set[str]) -> list[onnx.NodeProto]:
    """The nodes so that each comes after what it reads; SourceError where they read each other in a circle."""
    done = set(ready)
    for node in nodes:
        if any(name and name not in done for name in (*node.input, *foreign.captured(node))):
            break
        done.update(node.output)
    else:
        return list(nodes)
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    for node in nodes:
        for name in (*node.input, *foreign.captured(node)):
            if name and name not in makers and name not in ready:
                raise SourceError(f"the node {_called(node)} reads {name!r}, which nothing gives")
    reads = {
        i: {makers[name] for name in (*node.input, *foreign.captured(node)) if name in makers}
        for i, node in enumerate(nodes)
    }
    try:
        return [nodes[i] for i in TopologicalSorter(reads).static_order()]
    except CycleError as error:
        raise SourceError(f"the node {_called(nodes[error.args[1][0]])} reads what is computed from itself") from None


def _all_reads(graph: onnx.GraphProto) -> set[str]:
    """The names that any node of a graph or its subgraphs reads, or that are outputs."""
    found = {output.name for output in graph.output}
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                found |= _all_reads(inner)
    return found


def _called(node: onnx.NodeProto) -> str:
    return repr(f"{node.name or next(iter(node.output), '')} ({node.op_type})"[:200])


_SCOPES: Final = "pkg.torch.onnx.name_scopes"


def id_of(node: onnx.NodeProto, *, layer: bool = False) -> str:
    """The id that a node's name gives, dotted like a module path: ``/layer1/layer1.0/conv1/Conv``, and PyTorch's notes
    on scopes, as ``layer1.0.conv1``. That of a ``layer``, which has weights, is its module's.
    """
    name = node.name or next(filter(None, node.output), "") or node.op_type
    parts = [part for part in name.split("/") if part]
    scoped = False
    for entry in node.metadata_props:
        if entry.key == _SCOPES and len(entry.value) < 10_000:
            try:
                scopes = [str(scope) for scope in ast.literal_eval(entry.value)]
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                break
            if len(scopes) > 1 and not scopes[-2].startswith("_empty_nn_module"):
                parts, scoped = [*filter(None, scopes[-2:])], True
    path: list[str] = []
    for part in parts:
        # A scope of TorchScript's that is written out repeats the one that it lies in.
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    if len(path) > 1 and (scoped or _base(path[-1]) == node.op_type.lower()):
        last = path.pop()
        if not layer and not _base(path[-1].rpartition(".")[2]).startswith(_base(last)):
            path.append(last.lower())
    return _clean(".".join(path)) or node.op_type.lower()


def _base(name: str) -> str:
    return re.sub(r"_\d+$", "", name).lower()


def _clean(name: str) -> str:
    name = re.sub(r"[\s:]+", "_", name)
    return ".".join(filter(None, name.split(".")))[:200]


def _clean_key(name: str) -> str:
    """``name`` as a key that a torch module can hold."""
    parts = [part for part in name.split(".") if part]
    return ".".join(f"{part}_" if hasattr(nn.Module, part) or part == "training" else part for part in parts) or "value"


def _torch_type(
    target: str, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...], inputs: tuple[TensorType, ...]
) -> TensorType:
    """What an operation of PyTorch's returns, tried at two batch sizes; Untranslatable where that does not tell."""
    found = []
    for size in (7, 11):

        def decoded(value: Any, size: int = size) -> Any:
            match value:
                case ("input", int(index)):
                    type_ = inputs[index]
                    return torch.empty(type_.concrete(size), dtype=TORCH_DTYPES[type_.dtype], device="meta")
                case DType():
                    return TORCH_DTYPES[value]
                case Batch(times):
                    return times * size
                case tuple():
                    return [decoded(item) for item in value]
            return value

        try:
            returned = operation(target)(*map(decoded, args), **{name: decoded(value) for name, value in kwargs})
        except Exception as error:
            raise Untranslatable(str(error).splitlines()[0]) from None
        found.append(TensorType(tuple(returned.shape), TORCH_TO_OURS[returned.dtype]))
    type_ = foreign.between(*found)
    if type_ is None:
        raise Untranslatable("its shape is no multiple of the batch size")
    return type_


def _modernised(node: onnx.NodeProto, version: int, reader: Reader) -> list[onnx.NodeProto] | None:
    """The node as nodes of :data:`OPSET`, where its operation has changed until then; None where it has not."""
    if (
        version >= OPSET
        or foreign.means(node.op_type, version) == foreign.means(node.op_type, OPSET)
        or any(subgraphs(attribute) for attribute in node.attribute)
    ):
        return None
    names = list(dict.fromkeys(filter(None, node.input)))
    infos = []
    for name in names:
        type_ = reader.builder.type(reader.value(name))
        shape = [d if isinstance(d, int) else None for d in type_.shape]
        infos.append(helper.make_tensor_value_info(name, ONNX_DTYPES[type_.dtype], shape))
    outputs = [onnx.ValueInfoProto(name=name) for name in filter(None, node.output)]
    graph = helper.make_graph([node], "node", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    try:
        converted = onnx.version_converter.convert_version(model, OPSET).graph
    except Exception:  # it stays as it is, and can be written only in its own opset
        return None
    for tensor in converted.initializer:
        reader.known[tensor.name] = array(tensor)
    return list(converted.node)
