"""What a graph of an ONNX file says of itself: the types of its inputs, what reads what, and an order to go through."""

from __future__ import annotations

import re
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

import onnx

from netgraft.convert import onnx_foreign as foreign
from netgraft.convert.onnx_file import subgraphs
from netgraft.convert.onnx_foreign import DTYPES
from netgraft.convert.onnx_names import called
from netgraft.errors import SourceError
from netgraft.ir import Batch, TensorType
from netgraft.ir.types import Dim

Shape = tuple[int, ...]
"""Of an example input, its batch axis included."""


def input_type(value: onnx.ValueInfoProto, shape: Shape | None) -> TensorType:
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


def fixed_type(value: onnx.ValueInfoProto) -> TensorType | None:
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


def ordered(nodes: Sequence[onnx.NodeProto], ready: set[str]) -> list[onnx.NodeProto]:
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
                raise SourceError(f"the node {called(node)} reads {name!r}, which nothing gives")
    reads = {
        i: {makers[name] for name in (*node.input, *foreign.captured(node)) if name in makers}
        for i, node in enumerate(nodes)
    }
    try:
        return [nodes[i] for i in TopologicalSorter(reads).static_order()]
    except CycleError as error:
        raise SourceError(f"the node {called(nodes[error.args[1][0]])} reads what is computed from itself") from None


def all_reads(graph: onnx.GraphProto) -> set[str]:
    """The names that any node of a graph or its subgraphs reads, or that are outputs."""
    found = {output.name for output in graph.output}
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                found |= all_reads(inner)
    return found
