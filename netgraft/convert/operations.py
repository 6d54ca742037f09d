"""PyTorch's operations, as frozen nodes name them (``aten.roll.default``), and as ordinary code calls them
(``torch.roll``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, reduce
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from netgraft.convert.frozen import DTYPES, constant
from netgraft.errors import ConversionError
from netgraft.ir import Batch, DType, TensorType

TORCH_DTYPES: Final[Mapping[DType, torch.dtype]] = {ours: theirs for theirs, ours in DTYPES.items()}
"""The element types of the graph in PyTorch's words."""

NAMESPACES: Final[Mapping[str, Any]] = {
    "torch": torch,
    "F": F,
    "": Tensor,
    "torch.linalg": torch.linalg,
    "torch.special": torch.special,
    "torch.fft": torch.fft,
}
"""Where public functions are, by what stands before the last dot of a name; the empty one holds a tensor's methods."""

_PREFIXES: Final = {"linalg": "torch.linalg", "special": "torch.special", "fft": "torch.fft"}
_BATCH: Final = 3
_UNSAID: Final = frozenset({("device", repr(torch.device("cpu"))), ("pin_memory", "False")})


def operation(target: str) -> torch._ops.OpOverload:
    """The operation that a frozen node names (``aten.roll.default``); ConversionError where nothing defines it."""
    # The name may come from a stranger's file: nothing but an operation may be reached by it (torch.ops.load_library),
    # and none that opens files.
    try:
        found: object = reduce(getattr, target.split("."), torch.ops)
    except (AttributeError, RuntimeError):
        found = None
    if not isinstance(found, torch._ops.OpOverload) or any(a.name == "filename" for a in found._schema.arguments):
        raise ConversionError(
            f"torch {torch.__version__} has no operation {target!r} (one looks like aten.roll.default)"
        )
    return found


@lru_cache(maxsize=4096)
def public_name(target: str, args: tuple[Any, ...], kwargs: tuple[Any, ...], inputs: tuple[TensorType, ...]) -> str:
    """The name of a public function that does what the operation ``target`` does with these arguments (encoded as in
    :mod:`netgraft.convert.frozen`): ``torch.roll``, ``F.fold``, ``.masked_fill`` for a method of the first argument;
    ``torch.ops.{target}`` itself where there is none.

    Two functions do the same where they send the same operations, with the same arguments, to PyTorch's dispatcher.
    That is tried, on tensors without contents, because names alone promise nothing.
    """

    def arguments() -> tuple[list[Any], dict[str, Any]]:
        tensors = [
            torch.empty(type_.concrete(_BATCH), dtype=TORCH_DTYPES[type_.dtype], device="meta") for type_ in inputs
        ]
        return [_decoded(value, tensors) for value in args], {name: _decoded(value, tensors) for name, value in kwargs}

    called = operation(target)
    expected = _sent(called, *arguments()) if called.namespace == "aten" else None
    for name in _candidates(called.__name__.split(".")[0]) if expected else ():
        root, _, last = name.rpartition(".")
        found = getattr(NAMESPACES[root], last, None)
        if callable(found) and _sent(found, *arguments()) == expected:
            return name
    return f"torch.ops.{target}"


def _candidates(packet: str) -> list[str]:
    prefix, _, rest = packet.partition("_")
    inner = [f"{_PREFIXES[prefix]}.{rest}"] if prefix in _PREFIXES and rest else []
    return [*inner, f"torch.{packet}", f".{packet}", f"F.{packet}"] if packet[:1] != "_" else []


def _decoded(value: Any, tensors: Sequence[Tensor]) -> Any:
    """An encoded argument as it is passed, with some batch size, in evaluation, on the meta device."""
    match value:
        case DType():
            return TORCH_DTYPES[value]
        case ("input", int(index)):
            return tensors[index]
        case ("side", int(index), int(axis), int(times)):
            return tensors[index].shape[axis] * times
        case ("complex", float(real), float(imag)):
            return complex(real, imag)
        case Batch(times):
            return _BATCH * times
        case ("training",):
            return False
        case ("device", str()):
            return torch.device("meta")
        case (str(kind), str(name)):
            return constant(kind, name)
        case tuple():
            return [_decoded(item, tensors) for item in value]
    return value


def _sent(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> list[Any] | None:
    """What a call sends to the dispatcher; None where it fails."""
    recorder = _Recorder()
    try:
        with torch.no_grad(), recorder:
            function(*args, **kwargs)
    except Exception:  # whatever it is, the function does not take these arguments
        return None
    return recorder.calls


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its own __init_subclass__
    """Writes down what is called, tensors by their order of appearance."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.calls: list[Any] = []
        self._seen: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        # Functions that make tensors detach them, and write out where the tensors are: that is the default.
        if func is not torch.ops.aten.detach.default:
            said = {name: repr(self._plain(value)) for name, value in given.items()}
            said = {name: text for name, text in said.items() if (name, text) not in _UNSAID}
            self.calls.append((str(func), sorted(said.items())))
        result = func(*args, **(kwargs or {}))
        self._plain(result)
        return result

    def _plain(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        number = next((i for i, tensor in enumerate(self._seen) if tensor is value), len(self._seen))
        if number == len(self._seen):
            self._seen.append(value)
        return f"tensor {number}"
