"""Frozen operations as ONNX: those of PyTorch's as its own exporter writes each by itself, ONNX's own as they were."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import onnx
import torch
from onnx import helper, inliner
from torch import Tensor

from netgraft.convert.onnx_foreign import decode, frozen, inner_operations, means, operation, renamed
from netgraft.convert.onnx_writer import Writer
from netgraft.convert.operations import TORCH_DTYPES
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError
from netgraft.ir import Batch, Graph, Input, Model, Node, TensorType, Value

_BATCH: Final = "batch"


def example_inputs(graph: Graph, batch: int) -> tuple[Tensor, ...]:
    """Inputs of the graph's types, the same at every call: normal numbers, or zeros and ones for integers."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for given in graph.inputs:
        kind, shape = TORCH_DTYPES[given.type.dtype], given.type.concrete(batch)
        if kind.is_floating_point:
            inputs.append(torch.randn(shape, generator=generator).to(kind))
        else:
            inputs.append(torch.randint(0, 2, shape, generator=generator).to(kind))
    return tuple(inputs)


def write_foreign(writer: Writer, node: Node, names: Sequence[str]) -> list[str]:
    """Writes an operation of ONNX's back as it was; returns the names of its outputs. ConversionError where two nodes
    are of different versions of one domain.
    """
    data = frozen(node.attrs)
    domain, op_type, opset = operation(data[0])
    outputs = [writer.name(f"{node.id}/{op_type}") for _ in node.attrs["types"]]
    if domain and writer.opsets.setdefault(domain, opset) != opset:
        raise ConversionError(
            f"{node.id} is of version {opset} of the domain {domain}, of which others are {writer.opsets[domain]}"
        )
    if not domain:
        writer.wanted.add((op_type, opset))
    writer.nodes.append(decode(data, names, outputs))
    writer.wanted.update((name, opset) for name in inner_operations(writer.nodes[-1]))
    writer.nodes[-1].name = outputs[0]
    return outputs


def opset_for(wanted: Collection[tuple[str, int]], least: int) -> int:
    """The opset in which the operations ``wanted`` mean what they mean in their own, ``least`` or later;
    ConversionError if there is none.
    """
    found = max([least, *(opset for _, opset in wanted)])
    for op_type, opset in sorted(wanted):
        if means(op_type, opset) != means(op_type, found):
            raise ConversionError(f"{op_type} of opset {opset} means something else in opset {found}")
    return found


def write_frozen(writer: Writer, node: Node, names: Sequence[str], inputs: tuple[TensorType, ...], opset: int) -> Any:
    """Writes an operation of PyTorch's; returns the names of its outputs. ConversionError where PyTorch cannot."""
    batch = None if any(_holds_batch(type_) for type_ in inputs) else _batch_input(writer.graph)
    attrs = tuple((name, node.attrs[name]) for name in ("target", "args", "kwargs", "types"))
    try:
        proto = _exported(attrs, inputs, batch.type if batch else None, opset)
    except Exception as error:
        raise ConversionError(
            f"PyTorch's exporter does not know {node.attrs['target']}, the operation of {node.id}: {_reason(error)}"
        ) from error
    given = [*names, batch.id] if batch else list(names)
    known = dict(zip((i.name for i in proto.graph.input), given, strict=True))
    for tensor in proto.graph.initializer:
        known[tensor.name] = writer.tensor(tensor)
    for written in proto.graph.node:
        for output in written.output:
            known[output] = writer.name(f"{node.id}/{output}") if output else ""
    for written in proto.graph.node:
        writer.nodes.append(renamed(written, known))
        writer.nodes[-1].name = next(filter(None, writer.nodes[-1].output))
    return [known[output.name] for output in proto.graph.output]


def _holds_batch(type_: TensorType) -> bool:
    return any(isinstance(dim, Batch) for dim in type_.shape)


def _batch_input(graph: Graph) -> Input | None:
    """Where an operation that does not read the batch finds its size, should it need that."""
    return next((given for given in graph.inputs if _holds_batch(given.type)), None)


@lru_cache(maxsize=256)
def _exported(
    attrs: tuple[tuple[str, Any], ...], inputs: tuple[TensorType, ...], batch: TensorType | None, opset: int
) -> onnx.ModelProto:
    """One frozen node as a model of its own; ``batch`` is the type of one more input, that has the batch size."""
    types = inputs if batch is None else (*inputs, batch)
    given = tuple(Input(f"x{i}" if i < len(inputs) else _BATCH, type_) for i, type_ in enumerate(types))
    read = tuple(Value(f"x{i}") for i in range(len(inputs)))
    values = dict(attrs) | {"reason": ""}
    node = Node("node", "frozen", read, values)
    graph = Graph(given, (node,), tuple(node.value(i) for i in range(len(values["types"]))))
    axes = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(one.type.shape) if isinstance(dim, Batch)}
        for one in given
    )
    with _quiet():
        program = torch.onnx.export(
            to_module(Model(graph, {})).eval(),
            example_inputs(graph, batch=2),
            dynamo=True,
            opset_version=opset,
            external_data=False,
            input_names=[one.id for one in given],
            dynamic_shapes=(axes,),
            verbose=False,
        )
    assert program is not None, "the exporter returns a program whenever dynamo is set"
    proto: onnx.ModelProto = inliner.inline_local_functions(program.model_proto)
    missing = [one for one in given if one.id not in {i.name for i in proto.graph.input}]
    proto.graph.input.extend(helper.make_tensor_value_info(one.id, 1, None) for one in missing)
    order = {one.id: i for i, one in enumerate(given)}
    ordered = sorted(proto.graph.input, key=lambda value: order[value.name])
    del proto.graph.input[:]
    proto.graph.input.extend(ordered)
    return proto


def _reason(error: BaseException) -> str:
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    return next((line.strip() for line in reversed(texts[-1].splitlines()) if line.strip()), type(error).__name__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what the exporter tells its developers reaches the user."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(level)
