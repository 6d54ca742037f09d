"""Expressions: calls of torch as data, so that one writer can run them and another print them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from netgraft.convert import onnx_foreign
from netgraft.convert.operations import NAMESPACES, TORCH_DTYPES, operation
from netgraft.ir import DType


@dataclass(frozen=True, slots=True)
class Operand:
    """The node's ``index``-th input."""

    index: int


@dataclass(frozen=True, slots=True)
class Weight:
    """The node's weight in ``role``."""

    role: str


@dataclass(frozen=True, slots=True)
class BatchSize:
    """``times`` the batch size."""

    times: int


@dataclass(frozen=True, slots=True)
class Training:
    """Whether the network is in training mode."""


@dataclass(frozen=True, slots=True)
class Call:
    """``target(*args, **kwargs)``.

    ``target`` is a name under ``torch`` (``torch.linalg``, ...), ``F`` (torch.nn.functional) or ``torch.ops``;
    ``.name`` is a method of the first argument, ``[]`` indexing, one of ``+ - * / // **`` an operator, and a bare name
    one of :data:`HELPERS`. Arguments are plain data in which expressions may stand anywhere.
    """

    target: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Device:
    """The device of the node's first input."""


@dataclass(frozen=True, slots=True)
class Constant:
    """An element type, layout, memory format or device: see :func:`netgraft.convert.frozen.constant`."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Data:
    """An argument as it is, in which nothing stands for anything."""

    value: Any


Expression = Operand | Weight | BatchSize | Training | Device | Constant | Data | Call


@dataclass(frozen=True, slots=True)
class Layer:
    """``nn.{cls}(*args, **kwargs)``; its parameters and buffers are called like the op's weight roles."""

    cls: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def batch_norm(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """F.batch_norm that also counts batches, as nn.BatchNorm2d does."""
    if training:
        count.add_(1)
        if momentum is None:
            momentum = 1 / float(count)
    return F.batch_norm(x, mean, var, weight, bias, training, momentum or 0.0, eps)


def drop_path(x: Tensor, p: float, training: bool, draw: str = "uniform") -> Tensor:
    """Stochastic depth: in training, each example of a batch is zero with probability p."""
    if not training or not p:
        return x
    kept = torch.empty((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
    if draw == "bernoulli":
        return x / (1 - p) * kept.bernoulli_(1 - p)
    return x / (1 - p) * (kept.uniform_() + (1 - p)).floor()


HELPERS: Final[Mapping[str, Callable[..., Any]]] = {"batch_norm": batch_norm, "drop_path": drop_path}
"""Functions that torch does not have; they use ``torch``, ``Tensor`` and ``F`` only, so that they can be printed."""

FOREIGN: Final = "onnx"
"""The target of a call that runs an operation of ONNX's: see :mod:`netgraft.convert.onnx_foreign`."""

OPERATORS: Final[Mapping[str, Callable[..., Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "**": operator.pow,
    "[]": operator.getitem,
}

X: Final = Operand(0)


@cache
def function(target: str) -> Callable[..., Any]:
    """The function behind a :class:`Call`'s target; ConversionError if torch has none."""
    if target in OPERATORS:
        return OPERATORS[target]
    if target in HELPERS:
        return HELPERS[target]
    if target.startswith("torch.ops."):
        return operation(target.removeprefix("torch.ops."))
    if target == FOREIGN:
        return onnx_foreign.run
    root, _, name = target.rpartition(".")
    found: Callable[..., Any] = getattr(NAMESPACES[root], name)
    return found


def dtype(type_: DType) -> Constant:
    """An element type as an expression."""
    return Constant("dtype", str(TORCH_DTYPES[type_]).removeprefix("torch."))
