"""Frozen nodes: an operation of PyTorch's that the op table does not know, as plain data.

A frozen node's ``target`` is the operation's full name (``aten.roll.default``); ``args`` is a tuple and ``kwargs`` a
tuple of (name, value) pairs. A tuple that begins with a string stands for something; every other tuple is a list:

.. code-block:: text

    None, True, 1, 0.5, "text"          itself
    DType                               an element type
    Batch(k)                            k times the batch size, a number
    (value, ...)                        a list
    ("input", i)                        the node's i-th input
    ("side", i, axis, times)            so many times the length of an axis of that
    ("complex", 2.0, 1.0)               the number 2 + 1j
    ("training",)                       whether the network is being trained
    ("memory_format", "channels_last")  torch.channels_last
    ("layout", "strided")               torch.strided
    ("dtype", "complex32")              torch.complex32: an element type that the graph does not have
    ("device", "cpu")                   torch.device("cpu")

``types`` are the types of what the operation returns, by position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from netgraft.errors import ConversionError
from netgraft.ir import Batch, DType

DTYPES: Mapping[torch.dtype, DType] = {
    torch.float64: DType.F64,
    torch.float32: DType.F32,
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
    torch.int64: DType.I64,
    torch.int32: DType.I32,
    torch.int16: DType.I16,
    torch.int8: DType.I8,
    torch.uint8: DType.U8,
    torch.bool: DType.BOOL,
    torch.complex64: DType.C64,
    torch.complex128: DType.C128,
}
"""PyTorch's element types in the graph's words."""

Constant = torch.memory_format | torch.layout | torch.dtype | torch.device


def encode(argument: object, input: Callable[[object], int | None]) -> Any:
    """``argument`` of an operation as data; ``input(x)`` is the index of the input that ``x`` stands for, or None.

    ConversionError for what has no form as data.
    """
    index = input(argument)
    if index is not None:
        return ("input", index)
    match argument:
        case None | bool() | int() | float() | str() | Batch():
            return argument
        case complex(real=real, imag=imag):
            return ("complex", real, imag)
        case list() | tuple():
            return tuple(encode(item, input) for item in argument)
        case torch.dtype():
            return DTYPES.get(argument, ("dtype", _name(argument)))
        case torch.device():
            return ("device", str(argument))
        case torch.memory_format():
            return ("memory_format", _name(argument))
        case torch.layout():
            return ("layout", _name(argument))
    raise ConversionError(f"an argument of type {type(argument).__name__} cannot be stored: {argument!r}")


def _name(constant: object) -> str:
    return str(constant).removeprefix("torch.")


def constant(kind: str, name: str) -> Constant:
    """The object of PyTorch's that ``(kind, name)`` stands for in an argument, kind being ``memory_format``,
    ``layout``, ``dtype`` or ``device``; ConversionError for anything else.
    """
    found: Any = torch.device(name) if kind == "device" else getattr(torch, name, None)
    if type(found).__name__ != kind:
        raise ConversionError(f"a frozen node has the unreadable argument {(kind, name)!r}")
    decoded: Constant = found
    return decoded
