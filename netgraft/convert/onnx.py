"""Graphs as ONNX, by PyTorch's own exporter, with a batch axis of any size; and the check that it computes the same.

The exporter takes one to two seconds for a network like ResNet-20, which does not justify a writer of our own.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor

from netgraft.convert.lowering import TORCH_DTYPES
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError
from netgraft.ir import Batch, Graph, Model

OPSET: Final = 20
TOLERANCE: Final = 1e-4


def to_onnx(model: Model, path: Path | None = None) -> bytes:
    """The network in eval mode as one ONNX file with its weights inside; written to ``path`` where one is given.

    Inputs are called like the graph's, outputs ``output``, or ``output0``, ``output1``, ...; the batch axis is called
    ``batch``. ConversionError, naming the node where it can be told, if the exporter refuses.
    """
    graph = model.graph
    module = to_module(model).eval()
    inputs = example_inputs(graph, batch=2)
    axes = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(given.type.shape) if isinstance(dim, Batch)}
        for given in graph.inputs
    )
    count = len(graph.outputs)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[given.id for given in graph.inputs],
                output_names=["output"] if count == 1 else [f"output{i}" for i in range(count)],
                dynamic_shapes=(axes,),
                verbose=False,
            )
            assert program is not None, "the exporter returns a program whenever dynamo is set"
            proto = program.model_proto
    except Exception as error:
        raise ConversionError(f"{model.name} cannot be written as ONNX: {_reason(error, graph)}") from error
    _tidy(proto, graph)
    data: bytes = proto.SerializeToString()
    if path is not None:
        path.write_bytes(data)
    return data


def verify(data: bytes, model: Model, *, batches: Sequence[int] = (1, 3), tolerance: float = TOLERANCE) -> float:
    """The greatest difference between onnxruntime's outputs, as it runs by default, and :func:`to_module`'s.

    ConversionError where a difference is above ``tolerance``, absolute or relative, whichever is more lenient.
    """
    module = to_module(model).eval()
    worst = 0.0
    has_batch = any(isinstance(dim, Batch) for given in model.graph.inputs for dim in given.type.shape)
    for batch in batches if has_batch else (1,):
        inputs = example_inputs(model.graph, batch)
        with torch.no_grad():
            returned = module(*inputs)
        expected = [o.numpy() for o in (returned if isinstance(returned, tuple) else (returned,))]
        off = _difference(data, inputs, expected)
        if not off <= tolerance:
            plain = _difference(data, inputs, expected, optimise=False)
            cause = "onnxruntime's optimiser changes them" if plain <= tolerance else "the ONNX file is wrong"
            raise ConversionError(
                f"{model.name}: outputs of the ONNX network differ by {off:.2g} at batch {batch} "
                f"(at most {tolerance:g} is allowed); {cause}"
            )
        worst = max(worst, off)
    return worst


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


def _difference(
    data: bytes, inputs: Sequence[Tensor], expected: Sequence[npt.NDArray[Any]], *, optimise: bool = True
) -> float:
    """The greatest difference, relative where the expected value is above one; infinite where shapes differ."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feeds = {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs, strict=True)}
    worst = 0.0
    for ours, theirs in zip(expected, session.run(None, feeds), strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        wide = ours.astype(np.float64)
        off = np.abs(theirs - wide) / np.maximum(1.0, np.abs(wide))
        worst = max(worst, float(off.max(initial=0.0)))
    return worst


def _reason(error: BaseException, graph: Graph) -> str:
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(texts)
    for node in graph:
        if node.op == "frozen" and node.attrs["target"].rpartition(".")[0] in text:
            return f"PyTorch's exporter does not know {node.attrs['target']}, the operation of {node.id}"
    last = next((line for line in reversed(texts[-1].splitlines()) if line.strip()), type(error).__name__)
    return last.strip()


def _tidy(proto: onnx.ModelProto, graph: Graph) -> None:
    """Names the batch axis, and drops what the exporter notes about this machine (stack traces with paths)."""
    proto.producer_name = "netgraft"
    known = {given.name: given for given in proto.graph.input}
    batch = {
        known[given.id].type.tensor_type.shape.dim[axis].dim_param
        for given in graph.inputs
        for axis, dim in enumerate(given.type.shape)
        if given.id in known and isinstance(dim, Batch) and dim.times == 1
    } - {""}
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del value.metadata_props[:]
        for dim in value.type.tensor_type.shape.dim:
            for name in batch:
                if dim.dim_param:
                    dim.dim_param = re.sub(rf"\b{re.escape(name)}\b", "batch", dim.dim_param)
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]


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
