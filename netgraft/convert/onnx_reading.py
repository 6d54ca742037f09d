"""Going through an ONNX graph: what each of its values is, and what the graph of ours becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import AttributeProto, helper

from netgraft.convert import onnx_foreign as foreign
from netgraft.convert.frozen import DTYPES as TORCH_TO_OURS
from netgraft.convert.onnx_file import array, opset, subgraphs
from netgraft.convert.onnx_graph import Shape, all_reads, fixed_type, input_type, ordered
from netgraft.convert.onnx_known import Array, NotFoldable, at_batch, dims, fold, is_symbolic, known_shape
from netgraft.convert.onnx_names import called, clean_key, id_of
from netgraft.convert.onnx_writer import NUMPY, ONNX_DTYPES
from netgraft.convert.operations import TORCH_DTYPES, operation
from netgraft.errors import GraphError, SourceError
from netgraft.ir import Batch, Builder, DType, Graph, TensorType, Value
from netgraft.ir.types import Dim

OPSET: Final = 20
"""The opset that foreign nodes of ONNX's own domain are brought to where they mean something else in their own."""


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
        self._reads = all_reads(graph)
        given = [value for value in graph.input if value.name not in self.known]
        if self._shapes is not None and len(self._shapes) != len(given):
            raise SourceError(f"it has {len(given)} inputs, of which example inputs give {len(self._shapes)}")
        for i, value in enumerate(given):
            type_ = input_type(value, self._shapes[i] if self._shapes else None)
            if value.name in self._values:
                raise SourceError(f"two inputs are called {value.name!r}")
            self._ids.add(value.name)
            self._values[value.name] = self.builder.input(value.name, type_)
        for info in (*graph.value_info, *graph.output):
            if (type_or_none := fixed_type(info)) is not None:
                self._shown[info.name] = type_or_none
        self._nodes(ordered(graph.node, {*self.known, *self._values}))
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
                raise SourceError(f"the node {called(node)} {_UNFIT}: {error}") from None

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
        self._nodes(ordered(chosen.node, {*self.known, *self._values}))
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
                raise SourceError(f"the node {called(node)} {reason}")
            standard = onnx.defs.has(node.op_type, domain=node.domain)
            why = "it depends on the values of tensors" if standard else "the file does not say it (value_info)"
            raise SourceError(
                f"what the node {called(node)} returns has no shape that is known beforehand: {why}. Cut the network "
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
        stem = clean_key(self._stored.get(name) or name)
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
                    own = self.fresh_key(f"{clean_key(id)}.{role}")
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
    raise SourceError(f"the constant {called(call.node)} holds no numbers")


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
