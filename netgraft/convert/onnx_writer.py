"""An ONNX graph in the making: names that never clash, weights under their keys, shapes as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from netgraft.ir import Batch, DType, Graph, Model, Node, TensorType, Value

NUMPY: Final[Mapping[DType, npt.DTypeLike]] = {
    DType.F64: np.float64,
    DType.F32: np.float32,
    DType.F16: np.float16,
    DType.BF16: ml_dtypes.bfloat16,
    DType.I64: np.int64,
    DType.I32: np.int32,
    DType.I16: np.int16,
    DType.I8: np.int8,
    DType.U8: np.uint8,
    DType.BOOL: np.bool_,
    DType.C64: np.complex64,
    DType.C128: np.complex128,
}
"""The element types of the graph in numpy's words."""

ONNX_DTYPES: Final[Mapping[DType, int]] = {
    DType.F64: TensorProto.DOUBLE,
    DType.F32: TensorProto.FLOAT,
    DType.F16: TensorProto.FLOAT16,
    DType.BF16: TensorProto.BFLOAT16,
    DType.I64: TensorProto.INT64,
    DType.I32: TensorProto.INT32,
    DType.I16: TensorProto.INT16,
    DType.I8: TensorProto.INT8,
    DType.U8: TensorProto.UINT8,
    DType.BOOL: TensorProto.BOOL,
    DType.C64: TensorProto.COMPLEX64,
    DType.C128: TensorProto.COMPLEX128,
}
"""The element types of the graph in ONNX's words."""


class Writer:
    """Collects the nodes and tensors of an ONNX graph.

    ``values`` has the ONNX name of every value written so far; ``opsets`` the versions of other domains, ``wanted``
    operations of ONNX's own that are written back, with theirs.
    """

    def __init__(self, model: Model) -> None:
        self.graph: Graph = model.graph
        self.values: dict[Value, str] = {Value(given.id): given.id for given in model.graph.inputs}
        self.nodes: list[onnx.NodeProto] = []
        self.functions: dict[tuple[str, str], onnx.FunctionProto] = {}
        self.opsets: dict[str, int] = {}
        self.wanted: set[tuple[str, int]] = set()
        self._weights = model.weights
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._held: dict[tuple[str, str], str] = {}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._taken = {given.id for given in model.graph.inputs} | set(model.graph.weight_types)
        self._free = set(model.graph.weight_types) - {given.id for given in model.graph.inputs}
        self._at = ""
        self.outputs = [self.name(name) for name in _output_names(self.graph)]
        # Of a value that is returned twice, the first.
        sources = [_source(self.graph, value) for value in self.graph.outputs]
        self._wanted = dict(zip(reversed(sources), reversed(self.outputs), strict=True))

    def begin(self, node: Node) -> None:
        """What is written from now on computes ``node``."""
        self._at = node.id

    def name(self, stem: str) -> str:
        """A name not used yet that begins with ``stem``."""
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name

    def add(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", **attrs: Any) -> Any:
        """One ONNX node; returns the name of its output, or a list of names if ``outputs`` is not 1."""
        given = {name: value for name, value in attrs.items() if value is not None}
        names = [self.name(f"{self._at}/{op_type}") for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=names[0], domain=domain or None, **given))
        return names[0] if outputs == 1 else names

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """The name of a tensor that is no weight; equal ones are written once."""
        tensor = np.asarray(array, dtype)
        key = (tensor.dtype.str, tensor.shape, tensor.tobytes())
        if key not in self._constants:
            name = self.name(f"{self._at}/value")
            self._tensors[name] = _tensor(tensor, name)
            self._constants[key] = name
        return self._constants[key]

    def tensor(self, tensor: onnx.TensorProto) -> str:
        """The name of a tensor that somebody else wrote."""
        return self.constant(array := numpy_helper.to_array(tensor), array.dtype)

    def scalar(self, value: float, like: TensorType) -> str:
        """A number of the element type of ``like``."""
        return self.constant(value, NUMPY[like.dtype])

    def weight(self, node: Node, role: str, shape: Sequence[int] | None = None, *, transposed: bool = False) -> str:
        """The tensor of the node's ``role``, called like its key; reshaped to ``shape``, or with its two dimensions
        swapped. One that is needed in a second form too is written again.
        """
        key = node.weights[role]
        form = "transposed" if transposed else str(tuple(shape)) if shape is not None else ""
        if (key, form) not in self._held:
            type_ = self.graph.weight_types[key]
            tensor = np.asarray(self._weights[key]).astype(NUMPY[type_.dtype])
            tensor = tensor.T if transposed else tensor.reshape(shape) if shape is not None else tensor
            name = key if key in self._free else self.name(key)
            self._free.discard(key)
            self._tensors[name] = _tensor(tensor, name)
            self._held[key, form] = name
        return self._held[key, form]

    def shape(self, dims: Sequence[int | Batch]) -> str:
        """``dims`` as a tensor for Reshape, which finds out the batch dimension itself."""
        return self.constant([-1 if isinstance(d, Batch) else d for d in dims])

    def size(self, dims: Sequence[int | Batch]) -> str:
        """``dims`` as a tensor, with the batch size read from an input."""
        if not any(isinstance(d, Batch) for d in dims):
            return self.shape(dims)
        given, axis, held = next(
            (given, axis, dim.times)
            for given in self.graph.inputs
            for axis, dim in enumerate(given.type.shape)
            if isinstance(dim, Batch)
        )
        batch = self.add("Shape", given.id, start=axis, end=axis + 1)
        parts = []
        for d in dims:
            if not isinstance(d, Batch):
                parts.append(self.constant([d]))
            elif d.times == held:
                parts.append(batch)
            else:
                parts.append(self.add("Div", self.add("Mul", batch, self.constant([d.times])), self.constant([held])))
        return str(self.add("Concat", *parts, axis=0)) if len(parts) > 1 else parts[0]

    def finish(self, node: Node, results: Sequence[str], since: int) -> None:
        """Calls what was written since ``since`` like the node, or the graph's output, where it computes that."""
        new = {name for written in self.nodes[since:] for name in written.output}
        renamed: dict[str, str] = {}
        for index, result in enumerate(results):
            value = node.value(index)
            if result in new and result not in renamed:
                renamed[result] = self._wanted.get(value) or self.name(str(value))
            self.values[value] = renamed.get(result, result)
        for written in self.nodes[since:]:
            for names in (written.input, written.output):
                for i, name in enumerate(names):
                    names[i] = renamed.get(name, name)
            if renamed.get(results[0]) in written.output:
                written.name = node.id

    def model(self, opset: int) -> onnx.ModelProto:
        """The finished model."""
        graph = self.graph
        for value, name in zip(graph.outputs, self.outputs, strict=True):
            if self.values[value] != name:
                self.nodes.append(helper.make_node("Identity", [self.values[value]], [name], name=name))
        shown = {*self.outputs, *self._tensors, *(given.id for given in graph.inputs)}
        proto = helper.make_graph(
            self.nodes,
            "network",
            [_info(given.id, given.type) for given in graph.inputs],
            [_info(name, type_) for name, type_ in zip(self.outputs, graph.signature.outputs, strict=True)],
            list(self._tensors.values()),
            value_info=[
                _info(name, graph.types[value])
                for name, value in {name: value for value, name in self.values.items()}.items()
                if name not in shown
            ],
        )
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*item) for item in self.opsets.items())]
        functions = list(self.functions.values())
        model: onnx.ModelProto = helper.make_model(
            proto, producer_name="netgraft", ir_version=10, opset_imports=opsets, functions=functions
        )
        return model


def _output_names(graph: Graph) -> list[str]:
    """An output is called like the identity that gives it, which is there for that; otherwise ``output`` or, where
    there are several, ``output0``, ``output1``, ...
    """
    numbered = [f"output{i}" for i in range(len(graph.outputs))] if len(graph.outputs) > 1 else ["output"]
    named = [value.node in graph and graph[value.node].op == "identity" for value in graph.outputs]
    return [v.node if own else name for v, own, name in zip(graph.outputs, named, numbered, strict=True)]


def _source(graph: Graph, value: Value) -> Value:
    while value.node in graph and graph[value.node].op == "identity":
        value = graph[value.node].inputs[0]
    return value


def _tensor(array: npt.NDArray[Any], name: str) -> onnx.TensorProto:
    tensor: onnx.TensorProto = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    return tensor


def _info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    dims = [("batch" if d.times == 1 else f"{d.times}*batch") if isinstance(d, Batch) else d for d in type_.shape]
    return helper.make_tensor_value_info(name, ONNX_DTYPES[type_.dtype], dims)
