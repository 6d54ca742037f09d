"""The engines by name; each is a small module, imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from netgraft.errors import MeasureError, OptionError, unknown

from .networks import Engine

_MODULES = {
    "onnxruntime": "onnx_runtime",
    "openvino": "openvino_cpu",
    "torch": "torch_cpu",
    "torch.compile": "torch_cpu",
    "litert": "litert",
    "executorch": "executorch_cpu",
}

_REFUSED = {
    "tvm": "untuned it is two orders of magnitude slower than the others, and tuning takes hours a network",
    "tensorrt": "it needs an NVIDIA GPU; onnxruntime and openvino measure on the CPU",
}
"""Engines that people ask for and that this version cannot run, each with what to do instead."""

ENGINES = tuple(_MODULES)


def check_known(name: str) -> None:
    """OptionError for a name that no engine has, MeasureError for one of an engine that this version cannot run."""
    if name in _REFUSED:
        raise MeasureError(f"netgraft cannot measure in {name} yet: {_REFUSED[name]}; there is {', '.join(ENGINES)}")
    if name not in _MODULES:
        raise OptionError(unknown("there is no engine", name, ENGINES))


def engine(name: str) -> Engine:
    """The engine of this name; MeasureError for one that is not installed, and as :func:`check_known` does."""
    check_known(name)
    found = _found(name)
    if found.missing():
        raise MeasureError(f"the engine {name} is not installed here: {found.missing()}")
    return found


def engines() -> tuple[str, ...]:
    """The names of the engines that are installed here."""
    return tuple(name for name in ENGINES if not _found(name).missing())


def _found(name: str) -> Engine:
    by_name: dict[str, Engine] = import_module(f"{__package__}.{_MODULES[name]}").BY_NAME
    return by_name[name]
