"""Reading ONNX: a file becomes a graph with weights, for any batch size.

Operations that the op table has become ours, those that PyTorch has become frozen operations of PyTorch's, and all
others, custom domains included, frozen nodes that hold the ONNX node (:mod:`netgraft.convert.onnx_foreign`), which
:func:`~netgraft.convert.onnx.to_onnx` writes back.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from netgraft.convert.from_torch import generalise
from netgraft.convert.onnx_arithmetic import ARITHMETIC
from netgraft.convert.onnx_file import read_file
from netgraft.convert.onnx_graph import Shape
from netgraft.convert.onnx_layers import LAYERS
from netgraft.convert.onnx_patterns import simplify
from netgraft.convert.onnx_reading import Reader
from netgraft.errors import GraphError, NetgraftError, SourceError
from netgraft.ir import Batch, Graph, Model

RULES: Final = {**LAYERS, **ARITHMETIC}
"""The operations of ONNX that are not frozen as such, and how each is read."""


def load_onnx(path: Path, shapes: Sequence[Shape] | None = None) -> Model:
    """The network in an ONNX file of opset 13 or later (7 to 12 are converted), external data included.

    The first axis of an input is the batch where the file leaves it open; a fixed one is made variable where that
    follows from the graph, and a UserWarning says which of the two came of it. ``shapes`` are those of example inputs,
    batch included: they say how large other open axes are. Weight keys are the names of the file's tensors, node ids
    come from its nodes' names. Nothing outside the file's folder is read.

    SourceError, in one line, for a file that is damaged or lies, and for what a graph cannot hold: shapes that depend
    on values, tensors of strings, sequences.
    """
    reader = Reader(read_file(path), RULES, shapes)
    try:
        graph = reader.read()
        graph, weights = simplify(graph, reader.weights)
        graph = _variable(graph, path.name)
        return Model(graph, {key: weights[key] for key in graph.weight_types}, path.stem)
    except RecursionError:
        raise SourceError(f"{path}: what it computes of shapes is nested too deeply") from None
    except MemoryError:
        raise SourceError(f"{path}: its tensors do not fit into memory") from None
    except NetgraftError as error:
        raise SourceError(f"{path}: {error}") from None
    except Exception as error:
        # Whatever a file from anywhere holds must not end in a traceback.
        raise SourceError(f"{path} is no sound ONNX model: {type(error).__name__}: {error}") from error


def _variable(graph: Graph, name: str) -> Graph:
    """The graph for any batch size, where the file fixes one and that can be told."""
    shapes = [given.type.shape for given in graph.inputs]
    if any(isinstance(d, Batch) for shape in shapes for d in shape) or not shapes or not shapes[0]:
        return graph
    size = shapes[0][0]
    if size != 1 and len(shapes[0]) != 4:
        return graph  # nothing says that this is a batch
    try:
        variable = generalise(graph)
    except GraphError as error:
        _warn(f"{name} was exported for a batch of {size}, and stays so: {error}")
        return graph
    _warn(f"{name} was exported for a batch of {size}; it was read for any")
    return variable


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)
