"""A device that is not there, for machines without a graphics card.

Its tensors compute what the CPU computes, but as on a real device they do not mix with the CPU's, ``numpy`` does not
see them, and what would make the CPU wait for it is counted. Registering it changes torch for the whole process, so it
belongs into one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

THERE = "elsewhere"
_aten = torch.ops.aten
_BY_INDEX = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
"""What takes the CPU's indices into another device's tensors; a copy takes a tensor of either."""


def exists() -> bool:
    """Whether this torch lets a device be made in Python."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


def registered() -> torch.device:
    """The device, once torch knows of it."""
    if torch._C._get_privateuse1_backend_name() != THERE:
        backend_registration._setup_privateuseone_for_python_backend(THERE)
    return torch.device(THERE, 0)


@dataclass
class Seen:
    """What made the CPU wait: numbers that were read, and copies that were not allowed to go on by themselves."""

    waits: int = 0


_seen = Seen()


class There(Tensor):
    """A tensor on the device, with what it holds."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(THERE, 0),
        )
        made.held = held
        return made

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, new: There) -> None:
        Tensor.data.__set__(self, new)
        self.held = new.held

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given, shape = pytree.tree_flatten((args, kwargs))
    there = {id(x.held): x for x in given if isinstance(x, There)}
    here = [x for x in given if isinstance(x, Tensor) and not isinstance(x, There) and x.ndim]
    asked = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    copies = function is _aten.copy_.default
    if there and here and not copies and function not in _BY_INDEX:
        raise RuntimeError(f"{function} is given tensors of the CPU and of {THERE}")
    crosses = function is _aten._to_copy.default and asked is not None and asked != (THERE if there else "cpu")
    blocking = not (args[2] if copies and len(args) > 2 else kwargs.get("non_blocking", False))
    _seen.waits += bool(there) and function is _aten._local_scalar_dense.default
    _seen.waits += (crosses and blocking) or bool(copies and there and here and blocking)
    _seen.waits += bool(there and here and function in _BY_INDEX)
    plain = [x.held if isinstance(x, There) else x for x in given]
    args, kwargs = pytree.tree_unflatten(plain, shape)
    if asked is not None:
        kwargs = {**kwargs, "device": "cpu"}
    with _disable_current_modes():
        found = function(*args, **kwargs)
    if asked == "cpu" or (asked is None and not there):
        return found

    def back(x: Any) -> Any:
        return there[id(x)] if id(x) in there else There(x) if isinstance(x, Tensor) else x

    return pytree.tree_map(back, found)


class _Everywhere(TorchDispatchMode):
    """Hears of tensors that are made there or go there, too."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[tuple[torch.device, Seen]]:
    """The device, usable inside; and what was seen on it since."""
    device = registered()
    _seen.waits = 0
    with _Everywhere():
        yield device, _seen
