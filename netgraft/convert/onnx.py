"""Graphs as ONNX files with a batch axis of any size, and the check that they compute the same."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn

from netgraft.convert.onnx_frozen import example_inputs, opset_for
from netgraft.convert.onnx_ops import opset_of, write
from netgraft.convert.onnx_writer import Writer
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError
from netgraft.ir import Batch, DType, Model

__all__ = ["TOLERANCE", "apart", "example_inputs", "to_onnx", "verify"]

TOLERANCE: Final = 1e-4
ROUNDING: Final = 4.0
"""How much farther from float64 than torch onnxruntime may be where rounding alone is above the tolerance."""
_COMPLEX: Final = frozenset([DType.C64, DType.C128])
_UNITS: Final = {DType.F16: 2.0**-10, DType.BF16: 2.0**-7}
_LIMIT: Final = 2**31 - 2**20


def to_onnx(model: Model, path: Path | None = None) -> bytes:
    """The network in eval mode as one ONNX file with its weights inside; written to ``path`` where one is given.

    Inputs are called like the graph's, outputs like an identity that gives them, or else ``output`` (``output0``,
    ``output1``, ... where there are several); tensors like the weights' keys, nodes like the graph's; the batch axis is
    called ``batch``. ConversionError, naming the node, for what ONNX has no operation for, for complex numbers, and for
    networks of 2 GB and more.
    """
    graph = model.graph
    writer = Writer(model)
    try:
        for node in graph:
            if any(type_.dtype in _COMPLEX for type_ in graph.output_types(node)):
                raise ConversionError(f"{node.id} computes complex numbers, which onnxruntime does not")
            write(writer, node, graph)
        proto = writer.model(opset_for(writer.wanted, opset_of(graph)))
    except ConversionError as error:
        raise ConversionError(f"{model.name} cannot be written as ONNX: {error}") from error
    if proto.ByteSize() > _LIMIT:
        raise ConversionError(f"{model.name} cannot be written as ONNX: one file holds less than 2 GB")
    data: bytes = proto.SerializeToString()
    if path is not None:
        path.write_bytes(data)
    return data


def is_runnable(model: Model) -> bool:
    """Whether torch, with onnxruntime's help, can run the network: not where it holds operations of custom domains."""
    try:
        to_module(model)
    except ConversionError:
        return False
    return True


def verify(data: bytes, model: Model, *, batches: Sequence[int] = (1, 3), tolerance: float = TOLERANCE) -> float:
    """The greatest difference between onnxruntime's outputs, as it runs by default, and :func:`to_module`'s.

    ConversionError where a difference is above ``tolerance``, absolute or relative, whichever is more lenient. A
    network that multiplies rounding errors cannot agree so closely with anything: onnxruntime may be ``ROUNDING`` times
    as far from torch's float32 as that is from its float64, and a UserWarning says so where this is above it. Values
    of half precision are held to ``ROUNDING`` of their own units; a quantised network to what onnxruntime computes
    without its optimiser, which moves the borders between steps.
    """
    module = to_module(model).eval()
    kinds = {type_.dtype for type_ in model.graph.types.values()}
    tolerance = max([tolerance, *(ROUNDING * unit for kind, unit in _UNITS.items() if kind in kinds)])
    quantised = any(node.op == "frozen" and "QuantizeLinear" in node.attrs["target"] for node in model.graph)
    worst = 0.0
    has_batch = any(isinstance(dim, Batch) for given in model.graph.inputs for dim in given.type.shape)
    for batch in batches if has_batch else (1,):
        inputs = example_inputs(model.graph, batch)
        with torch.no_grad():
            returned = module(*inputs)
        expected = [o.numpy() for o in (returned if isinstance(returned, tuple) else (returned,))]
        off = _difference(data, inputs, expected)
        if not off <= tolerance:
            rounding = _rounding(module, inputs, expected)
            if off <= ROUNDING * rounding:
                warnings.warn(
                    f"{model.name} magnifies rounding errors: its outputs are {rounding:.2g} off in float32, in torch "
                    f"too, and those of the ONNX network differ by {off:.2g}",
                    UserWarning,
                    stacklevel=2,
                )
                worst = max(worst, off)
                continue
            plain = _difference(data, inputs, expected, optimise=False)
            if quantised and plain <= tolerance:
                warnings.warn(
                    f"{model.name} is quantised: onnxruntime's optimiser changes its outputs by {off:.2g}",
                    UserWarning,
                    stacklevel=2,
                )
                worst = max(worst, off)
                continue
            cause = "onnxruntime's optimiser changes them" if plain <= tolerance else "the ONNX file is wrong"
            raise ConversionError(
                f"{model.name}: outputs of the ONNX network differ by {off:.2g} at batch {batch} "
                f"(at most {tolerance:g} is allowed); {cause}"
            )
        worst = max(worst, off)
    return worst


def _rounding(module: nn.Module, inputs: Sequence[Tensor], expected: Sequence[npt.NDArray[Any]]) -> float:
    """How far the outputs in float32 are from those in float64; zero where the network cannot be run in float64."""
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    try:
        with torch.no_grad():
            returned = copy.deepcopy(module).double()(*wide)
    except (RuntimeError, ConversionError):
        return 0.0
    exact = returned if isinstance(returned, tuple) else (returned,)
    return max(apart(ours, theirs.numpy()) for ours, theirs in zip(expected, exact, strict=True))


def apart(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """The greatest difference, relative where the expected value is above one; infinite where shapes differ, or one
    is no number. Infinities are equal to themselves.
    """
    if expected.shape != found.shape:
        return float("inf")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b) / np.maximum(1.0, np.abs(a)))
    return float(np.nan_to_num(off, nan=np.inf).max(initial=0.0))


def _difference(
    data: bytes, inputs: Sequence[Tensor], expected: Sequence[npt.NDArray[Any]], *, optimise: bool = True
) -> float:
    """The greatest difference of what onnxruntime computes from ``expected``."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feeds = {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs, strict=True)}
    return max(apart(ours, theirs) for ours, theirs in zip(expected, session.run(None, feeds), strict=True))
