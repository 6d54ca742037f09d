"""What the nodes and tensors of an ONNX file are called here: ids and keys like the paths of modules."""

from __future__ import annotations

import ast
import re
from typing import Final

import onnx
from torch import nn


def called(node: onnx.NodeProto) -> str:
    """How messages call a node: by its name, or what it gives, and its operation."""
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


def clean_key(name: str) -> str:
    """``name`` as a key that a torch module can hold."""
    parts = [part for part in name.split(".") if part]
    return ".".join(f"{part}_" if hasattr(nn.Module, part) or part == "training" else part for part in parts) or "value"
