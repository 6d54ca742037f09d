"""What is measured: networks in any of their forms, and how they are to be run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from netgraft.errors import MeasureError, OptionError

if TYPE_CHECKING:
    # A worker measures files, and does without the rest of netgraft.
    from netgraft.ir import Model

Array = NDArray[Any]
Network: TypeAlias = "bytes | Path | Model"
"""An ONNX model's bytes; a file (.onnx, .pt2, .tflite, .pte); or a netgraft Model."""

PRECISIONS = ("fp32", "bf16", "int8")

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool")
"""Element types that inputs can be made of, by numpy's names."""


@dataclass(frozen=True)
class Variant:
    """A model as it is to be run: gives one model of a comparison an engine or a precision of its own.

    ``precision`` is fp32, bf16 (computed in, where the processor has it) or int8 (quantised first, with the value
    ranges that ``calibration`` shows: a sequence of inputs by name, with their batch axis; random ones where None).
    """

    model: Network
    engine: str = "onnxruntime"
    precision: str = "fp32"
    calibration: Sequence[Mapping[str, Array]] | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise OptionError(f"there is no precision {self.precision!r}; there is {', '.join(PRECISIONS)}")

    @classmethod
    def of(cls, model: Network | Variant, engine: str, precision: str) -> Variant:
        """The variant as it is, or else the model in this engine and precision."""
        return model if isinstance(model, Variant) else cls(model, engine, precision)


@dataclass(frozen=True)
class Setting:
    """What all networks of a measurement have in common."""

    batch: int
    threads: int


@dataclass(frozen=True)
class Input:
    """One input of a program; axes that are no numbers may have any size, ``dtype`` is numpy's name or the engine's."""

    name: str
    shape: Sequence[int | str | None]
    dtype: str


Session = Callable[[], Any]
"""Runs a network once on what it was opened with, to the end; what comes out is in the engine's own form."""


class Program(Protocol):
    """A network as an engine has read it."""

    @property
    def inputs(self) -> Sequence[Input]:
        """What it is to be fed with, in order."""
        ...

    def open(self, feed: Mapping[str, Array]) -> Session:
        """A fresh session, in memory of its own."""
        ...


class Engine(Protocol):
    """What runs networks; its exceptions come out as they are, and are put into words by the caller."""

    name: str

    def missing(self) -> str:
        """Empty where the engine is installed; or else what to do."""
        ...

    def lacks(self, precision: str) -> str:
        """Empty where it has the precision on this machine; or else why not, and what has it."""
        ...

    def running(self, threads: int) -> AbstractContextManager[None]:
        """What has to hold of the process while its networks are loaded and run."""
        ...

    def load(self, variant: Variant, setting: Setting) -> Program:
        """Read a network."""
        ...


def label_of(model: Network, fallback: str) -> str:
    """How messages call a network: by its file, where it has one."""
    return str(model) if isinstance(model, Path) else fallback


def as_onnx(model: Network) -> bytes | Path:
    """The network as ONNX: its bytes, or the file it lies in."""
    if isinstance(model, bytes) or (isinstance(model, Path) and model.suffix not in (".pt2", ".tflite", ".pte")):
        return model
    from netgraft.convert.onnx import to_onnx

    return to_onnx(as_model(model))


def as_model(model: Network) -> Model:
    """The network as netgraft holds it; MeasureError for a file that it cannot be read from."""
    if isinstance(model, bytes):
        from netgraft.convert.from_onnx import load_onnx

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(model)
            return load_onnx(path)
    if not isinstance(model, Path):
        return model
    if model.suffix == ".onnx":
        from netgraft.convert.from_onnx import load_onnx

        return load_onnx(model)
    if model.suffix == ".pt2":
        from netgraft.convert.from_torch import from_exported
        from netgraft.convert.pt2 import load_pt2

        return from_exported(load_pt2(model), name=model.stem)
    raise MeasureError(f"{model} can only be run by the engine that its form was made for; use a .onnx or .pt2 file")


def random_input(spec: Input, batch: int, label: str, seed: int = 0) -> Array:
    """Random values for one input of a program; the same for every model with the same input."""
    shape = [batch if n == 0 and not isinstance(size, int) else size for n, size in enumerate(spec.shape)]
    whole = [size for size in shape if isinstance(size, int)]
    if len(whole) < len(shape):
        raise MeasureError(
            f"input {spec.name!r} of {label} has the shape {list(spec.shape)}; "
            "only its first axis, the batch, may be dynamic"
        )
    if whole and whole[0] != batch:
        raise MeasureError(
            f"input {spec.name!r} of {label} is fixed to a batch of {whole[0]}, not {batch}; "
            f"export it with a dynamic batch axis, or measure with a batch of {whole[0]}"
        )
    if spec.dtype not in DTYPES:
        raise MeasureError(
            f"input {spec.name!r} of {label} is a {spec.dtype}; inputs can be made of {', '.join(DTYPES)}"
        )
    dtype = np.dtype(spec.dtype)
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        return rng.standard_normal(whole).astype(dtype)
    return rng.integers(0, 2, whole).astype(dtype)  # 0 and 1 are valid as indices, classes and flags
