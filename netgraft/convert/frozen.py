"""Frozen nodes: an operation of PyTorch's that the op table does not know, as plain data, and how it is called again.

A frozen node's ``target`` is the operation's full name (``aten.roll.default``); ``args`` is a tuple and ``kwargs`` a
tuple of (name, value) pairs, in which every value is one of

.. code-block:: text

    None, True, 1, 0.5, "text"          itself
    DType                               an element type
    ("input", i)                        the node's i-th input
    ("size", i, dim, times, parts)      inputs[i].shape[dim] * times // parts: a number that depends on the batch
    ("list", value, ...)                a list
    ("training",)                       whether the network is being trained
    ("device", "cpu")                   the device of the node's first input; of the given name if it has none
    ("memory_format", "channels_last")  torch.channels_last
    ("layout", "strided")               torch.strided
    ("dtype", "complex64")              torch.complex64: an element type that the graph does not have

What the operation returns is flattened to its tensors in order, one output of the node each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from netgraft.errors import ConversionError
from netgraft.ir import Batch, DType

TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    DType.F64: torch.float64,
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.I64: torch.int64,
    DType.I32: torch.int32,
    DType.I16: torch.int16,
    DType.I8: torch.int8,
    DType.U8: torch.uint8,
    DType.BOOL: torch.bool,
}
"""The element types of the graph in PyTorch's words."""

DTYPES: Mapping[torch.dtype, DType] = {theirs: ours for ours, theirs in TORCH_DTYPES.items()}
"""PyTorch's element types in the graph's words."""


def encode(argument: object, tensor: Callable[[object], int | None], size: Callable[[Batch], tuple[int, ...]]) -> Any:
    """``argument`` of an operation as data.

    ``tensor(argument)`` gives the index of the input that an argument stands for, None for anything else;
    ``size(batch)`` gives (input, dim, times, parts) for a multiple of the batch size. ConversionError for what has no
    form as data.
    """
    index = tensor(argument)
    if index is not None:
        return ("input", index)
    match argument:
        case None | bool() | int() | float() | str():
            return argument
        case Batch():
            return ("size", *size(argument))
        case list() | tuple():
            return ("list", *(encode(item, tensor, size) for item in argument))
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


def operation(target: str) -> Callable[..., Any]:
    """The operation called ``target``; ConversionError where no loaded package defines it."""
    found: Any = torch.ops
    for part in target.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConversionError(
                f"no operation {target!r} is known to PyTorch; import the package that defines "
                f"{target.split('.')[0]!r} first"
            ) from None
    if not isinstance(found, torch._ops.OpOverload):
        raise ConversionError(f"{target!r} is no full name of an operation; it looks like aten.roll.default")
    return found


def call(attrs: Mapping[str, Any], inputs: Sequence[Tensor], *, training: bool) -> tuple[Tensor, ...]:
    """Runs a frozen node with the attributes ``attrs`` on ``inputs``; all tensors that it returns, in order."""
    args = [_decode(value, inputs, training) for value in attrs["args"]]
    kwargs = {name: _decode(value, inputs, training) for name, value in attrs["kwargs"]}
    return tensors(operation(attrs["target"])(*args, **kwargs))


def tensors(returned: object) -> tuple[Tensor, ...]:
    """The tensors in what an operation returned, in order."""
    if isinstance(returned, Tensor):
        return (returned,)
    if isinstance(returned, list | tuple):
        return tuple(tensor for part in returned for tensor in tensors(part))
    return ()


def _decode(value: Any, inputs: Sequence[Tensor], training: bool) -> Any:
    match value:
        case DType():
            return TORCH_DTYPES[value]
        case ("input", int(index)):
            return inputs[index]
        case ("size", int(index), int(dim), int(times), int(parts)):
            return inputs[index].shape[dim] * times // parts
        case ("list", *items):
            return [_decode(item, inputs, training) for item in items]
        case ("training",):
            return training
        case ("device", str(name)):
            return inputs[0].device if inputs else torch.device(name)
        case ("memory_format" | "layout" | "dtype", str(name)):
            return getattr(torch, name)
        case tuple():
            raise ConversionError(f"a frozen node has the unreadable argument {value!r}")
    return value
