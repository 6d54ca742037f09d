"""Foreign nodes: operations of ONNX that neither the op table nor PyTorch has, kept as data and written back.

A foreign node is a frozen one. Its ``target`` is ``onnx::DOMAIN::OPERATION:OPSET`` (``onnx::ai.onnx::NonZero:17``);
``args`` are three lists, and ``kwargs`` the attributes:

.. code-block:: text

    args[0]   the operation's inputs: ("input", i), or None for one that is left out
    args[1]   its outputs: True, or False for one that is left out
    args[2]   what its subgraphs read from outside: (("input", i), "name inside") pairs
    kwargs    (name, value) pairs: a number, a text, a list of numbers, or ("proto", text) for everything else, the text
              being the attribute as protobuf, in base 64

In torch such a node runs in onnxruntime, forward only.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import AttributeProto, helper
from torch import Tensor

from netgraft.convert.onnx_writer import NUMPY, ONNX_DTYPES
from netgraft.errors import ConversionError
from netgraft.ir import Batch, DType, TensorType

PREFIX: Final = "onnx::"
DTYPES: Final[Mapping[int, DType]] = {theirs: ours for ours, theirs in ONNX_DTYPES.items()}
"""ONNX's element types in the graph's words."""

Frozen = tuple[str, Any, Any]
"""A foreign node's target, args and kwargs."""


def is_foreign(attrs: Mapping[str, Any]) -> bool:
    """Whether a frozen node's attributes are those of a foreign one."""
    return str(attrs["target"]).startswith(PREFIX)


def frozen(attrs: Mapping[str, Any]) -> Frozen:
    """What says everything about a foreign node but the types."""
    return attrs["target"], attrs["args"], attrs["kwargs"]


def operation(target: str) -> tuple[str, str, int]:
    """Domain ("" for ONNX's own), operation and opset of a target; ConversionError for what is none."""
    try:
        _, domain, rest = target.split("::")
        op_type, _, opset = rest.rpartition(":")
        return ("" if domain == "ai.onnx" else domain), op_type, int(opset)
    except ValueError:
        raise ConversionError(f"a frozen node names {target!r}, which is no ONNX operation") from None


def encode(node: onnx.NodeProto, opset: int, inputs: Mapping[str, int], captured: Sequence[str]) -> Frozen:
    """``node`` as data; ``inputs`` gives the position of every value that it or its subgraphs (``captured``) read."""
    args = (
        tuple(("input", inputs[name]) if name else None for name in node.input),
        tuple(bool(name) for name in node.output),
        tuple((("input", inputs[name]), name) for name in captured),
    )
    kwargs = tuple((attribute.name, _encode(attribute)) for attribute in node.attribute)
    return f"{PREFIX}{node.domain or 'ai.onnx'}::{node.op_type}:{opset}", args, kwargs


def _encode(attribute: onnx.AttributeProto) -> Any:
    match attribute.type:
        case AttributeProto.INT:
            return int(attribute.i)
        case AttributeProto.FLOAT:
            return float(attribute.f)
        case AttributeProto.INTS if attribute.ints:
            return tuple(map(int, attribute.ints))
        case AttributeProto.FLOATS if attribute.floats:
            return tuple(map(float, attribute.floats))
        case AttributeProto.STRING:
            try:
                return attribute.s.decode("utf-8")
            except UnicodeDecodeError:
                pass
    return ("proto", base64.b64encode(attribute.SerializeToString(deterministic=True)).decode("ascii"))


def decode(node: Frozen, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    """The ONNX node, reading and giving values of these names; ConversionError where the data are damaged."""
    target, args, kwargs = node
    domain, op_type, _ = operation(target)
    try:
        given, returned, captured = args
        left = iter(outputs)
        proto: onnx.NodeProto = helper.make_node(
            op_type,
            ["" if one is None else inputs[one[1]] for one in given],
            [next(left) if there else "" for there in returned],
            domain=domain or None,
        )
        for name, value in kwargs:
            proto.attribute.append(_decode(name, value))
        if captured:
            proto = renamed(proto, {name: inputs[one[1]] for one, name in captured})
    except (ValueError, TypeError, IndexError, StopIteration) as error:
        raise ConversionError(f"the frozen node of {target} is damaged: {error}") from None
    return proto


def _decode(name: str, value: Any) -> onnx.AttributeProto:
    if isinstance(value, tuple) and value[0] == "proto":
        try:
            packed: onnx.AttributeProto = onnx.AttributeProto.FromString(base64.b64decode(value[1]))
        except Exception as error:
            raise ValueError(f"attribute {name}: {error}") from None
        return packed
    attribute: onnx.AttributeProto = helper.make_attribute(name, value)
    if isinstance(value, float) or (isinstance(value, tuple) and isinstance(value[0], float)):
        attribute.type = AttributeProto.FLOATS if isinstance(value, tuple) else AttributeProto.FLOAT
    return attribute


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of ``node`` in which ``names`` replaces the names of values, in its subgraphs too."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    _rename(copy, names)
    copy.doc_string = ""
    del copy.metadata_props[:]
    return copy


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for values in (node.input, node.output):
        for i, name in enumerate(values):
            values[i] = names.get(name, name)
    for graph in _subgraphs(node):
        for inner in graph.node:
            _rename(inner, names)
        for output in graph.output:
            output.name = names.get(output.name, output.name)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def means(op_type: str, opset: int) -> object:
    """What tells the meanings of an operation of ONNX's own in two opsets apart: what it takes and gives. New element
    types alone change nothing. Nothing can be said of an operation that this release of onnx does not know.
    """
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except Exception:
        return None
    attributes = {
        name: (a.type, a.required, a.default_value.SerializeToString()) for name, a in schema.attributes.items()
    }
    return attributes, *([(x.name, x.option) for x in side] for side in (schema.inputs, schema.outputs))


def inner_operations(node: onnx.NodeProto) -> Iterator[str]:
    """The operations of ONNX's own in the subgraphs of a node."""
    for graph in _subgraphs(node):
        for inner in graph.node:
            if inner.domain in ("", "ai.onnx"):
                yield inner.op_type
            yield from inner_operations(inner)


def captured(node: onnx.NodeProto) -> list[str]:
    """The names that the subgraphs of a node read from outside, in order."""
    return list(dict.fromkeys(name for graph in _subgraphs(node) for name in _free(graph)))


def _free(graph: onnx.GraphProto) -> Iterator[str]:
    inside = {given.name for given in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for name in (*node.input, *captured(node)):
            if name and name not in inside:
                yield name
        inside.update(node.output)
    yield from (output.name for output in graph.output if output.name not in inside)


# Types


def infer(
    node: Frozen, inputs: Sequence[TensorType], known: Callable[[int], Mapping[int, npt.NDArray[Any]]]
) -> tuple[TensorType, ...] | None:
    """What the node returns, by ONNX's own rules and, where there are none, by running it; None where neither tells.

    ``known`` gives the inputs that are constants, or that only the batch size decides, at a batch size; two are tried.
    """
    for ask in (_by_rule, _by_running):
        found = [ask(node, [_concrete(type_, size) for type_ in inputs], known(size)) for size in _SIZES]
        first, second = found
        if first is None or second is None or len(first) != len(second):
            continue
        types = [between(a, b) for a, b in zip(first, second, strict=True)]
        if all(type_ is not None for type_ in types):
            return tuple(type_ for type_ in types if type_ is not None)
    return None


_SIZES: Final = (7, 11)


def _concrete(type_: TensorType, size: int) -> TensorType:
    return type_.with_shape(type_.concrete(size))


def between(a: TensorType, b: TensorType) -> TensorType | None:
    """The type that is ``a`` at the first and ``b`` at the second of the two batch sizes."""
    if a.rank != b.rank or a.dtype is not b.dtype:
        return None
    shape: list[int | Batch] = []
    for d, e in zip(a.concrete(), b.concrete(), strict=True):
        if d == e:
            shape.append(d)
        elif d * _SIZES[1] == e * _SIZES[0] and d % _SIZES[0] == 0:
            shape.append(Batch(d // _SIZES[0]))
        else:
            return None
    return a.with_shape(tuple(shape))


def _by_rule(
    node: Frozen, inputs: Sequence[TensorType], known: Mapping[int, npt.NDArray[Any]]
) -> list[TensorType] | None:
    domain, op_type, opset = operation(node[0])
    proto, names = _alone(node, len(inputs))
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema,
            proto,
            {
                name: helper.make_tensor_type_proto(ONNX_DTYPES[t.dtype], t.concrete())
                for name, t in zip(names, inputs, strict=True)
            },
            {names[i]: onnx.numpy_helper.from_array(array) for i, array in known.items()},
            opset_imports=[helper.make_opsetid(domain, opset)],
            ir_version=10,
        )
    except Exception:  # no such operation, or one that has no rule
        return None
    types = []
    for name in filter(None, proto.output):
        kind = found[name].tensor_type if name in found else None
        if kind is None or kind.elem_type not in DTYPES or not kind.HasField("shape"):
            return None
        if any(not d.HasField("dim_value") for d in kind.shape.dim):
            return None
        types.append(TensorType(tuple(d.dim_value for d in kind.shape.dim), DTYPES[kind.elem_type]))
    return types


def _by_running(
    node: Frozen, inputs: Sequence[TensorType], known: Mapping[int, npt.NDArray[Any]]
) -> list[TensorType] | None:
    if sum(type_.numel() for type_ in inputs) > _MOST or operation(node[0])[1] in _VALUES_DECIDE:
        return None
    session = _session(node, tuple(_kind(t.dtype, t.shape) for t in inputs), None)
    if session is None:
        return None
    rng = np.random.default_rng(0)
    names = [given.name for given in session.get_inputs()]
    integers = {i for i, type_ in enumerate(inputs) if i not in known and not type_.dtype.startswith(("f", "bf"))}

    def drawn(type_: TensorType) -> npt.NDArray[Any]:
        shape = type_.concrete()
        floats = type_.dtype.startswith(("f", "bf"))
        found = rng.standard_normal(shape) if floats else rng.integers(0, 2, shape)
        return np.asarray(found).astype(NUMPY[type_.dtype])

    def returned(given: Sequence[npt.NDArray[Any]]) -> list[TensorType] | None:
        try:
            found = session.run(None, dict(zip(names, given, strict=True)))
        except Exception:
            return None
        if any(not isinstance(x, np.ndarray) or x.dtype not in kinds for x in found):
            return None
        return [TensorType(tuple(x.shape), kinds[x.dtype]) for x in found]

    kinds = {np.dtype(theirs): ours for ours, theirs in NUMPY.items()}
    given = [known[i] if i in known else drawn(type_) for i, type_ in enumerate(inputs)]
    types = returned(given)
    if integers:  # of which sizes may be made: zeros and ones change places
        again = returned([(1 - x).astype(x.dtype) if i in integers else x for i, x in enumerate(given)])
        return types if again in (None, types) else None
    return types


_MOST: Final = 2**24
_VALUES_DECIDE: Final = frozenset(["NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "Scan", "If"])


# Running


def run(node: Frozen, types: Sequence[TensorType], id: str, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Computes the node in onnxruntime; one output comes bare. ConversionError where a gradient is asked through it."""
    # Under autocast values come in bfloat16, which neither numpy nor onnxruntime's kernels have.
    inputs = tuple(x.float() if x.dtype is torch.bfloat16 else x for x in inputs)
    dtypes = tuple(t.dtype for t in types)
    returned: tuple[Tensor, ...] = _Run.apply(node, dtypes, id, *inputs)  # type: ignore[no-untyped-call]  # torch's
    return returned[0] if len(types) == 1 else returned


def check_runs(node: Frozen, types: Sequence[TensorType], inputs: Sequence[TensorType], id: str) -> None:
    """ConversionError where onnxruntime cannot run the node."""
    if _session(node, tuple(_kind(t.dtype, t.shape) for t in inputs), tuple(t.dtype for t in types)) is None:
        domain, op_type, _ = operation(node[0])
        raise ConversionError(
            f"{id} is the ONNX operation {op_type}{f' of the domain {domain}' if domain else ''}, which neither torch "
            "nor onnxruntime can run: the network can be looked at and written back as ONNX, but not run"
        )


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, node: Frozen, dtypes: tuple[DType, ...], id: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.id, ctx.target = id, node[0]
        session = _session(node, tuple(_kind(_OURS[x.dtype], x.shape) for x in inputs), dtypes)
        if session is None:
            raise ConversionError(f"{id} cannot be run: onnxruntime does not know {node[0]}")
        feeds = {
            given.name: x.detach().cpu().contiguous().numpy()
            for given, x in zip(session.get_inputs(), inputs, strict=True)
        }
        device = inputs[0].device if inputs else torch.device("cpu")
        return tuple(torch.from_numpy(np.array(y)).to(device) for y in session.run(None, feeds))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise ConversionError(
            f"{ctx.id} is the ONNX operation {ctx.target.removeprefix(PREFIX)}, which torch does not have: no gradient "
            "comes through it, so what lies before it cannot be trained"
        )


_OURS: Final[Mapping[torch.dtype, DType]] = {
    getattr(torch, np.dtype(theirs).name if ours is not DType.BF16 else "bfloat16"): ours
    for ours, theirs in NUMPY.items()
}


def _alone(node: Frozen, count: int) -> tuple[onnx.NodeProto, list[str]]:
    """The node by itself, and the names of its ``count`` inputs."""
    names = [f"x{i}" for i in range(count)]
    return decode(node, names, [f"y{i}" for i in range(sum(node[1][1]))]), names


_Kind = tuple[DType, tuple[int | None, ...]]


def _kind(dtype: DType, shape: Sequence[int | Batch]) -> _Kind:
    """What onnxruntime is told of an input: how long a list is, which may be one of sizes, and the rank of others."""
    return dtype, tuple(d if len(shape) == 1 and isinstance(d, int) else None for d in shape)


@lru_cache(maxsize=1024)
def _session(
    node: Frozen, inputs: tuple[_Kind, ...], outputs: tuple[DType, ...] | None
) -> onnxruntime.InferenceSession | None:
    """Onnxruntime on the node alone; None where it cannot. ``outputs`` None: whatever types they have."""
    domain, _, opset = operation(node[0])
    proto, names = _alone(node, len(inputs))
    kinds = [None] * sum(node[1][1]) if outputs is None else outputs
    graph = helper.make_graph(
        [proto],
        "node",
        [
            helper.make_tensor_value_info(name, ONNX_DTYPES[dtype], shape)
            for name, (dtype, shape) in zip(names, inputs, strict=True)
        ],
        [
            helper.make_tensor_value_info(name, ONNX_DTYPES[dtype], None) if dtype else onnx.ValueInfoProto(name=name)
            for name, dtype in zip(filter(None, proto.output), kinds, strict=True)
        ],
    )
    opsets = {"": max(opset if not domain else 20, 13), domain: opset}
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid(*o) for o in opsets.items()])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # whatever it is, onnxruntime does not run this
        return None
