"""LiteRT (TensorFlow Lite) on the CPU: runs .tflite files, which only its own converters write."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from netgraft.errors import MeasureError

from .networks import Array, Engine, Input, Session, Setting, Variant


class LiteRt:
    """The interpreter with XNNPACK; inputs are as wide as the file says."""

    name = "litert"

    def missing(self) -> str:
        """See :class:`~.networks.Engine`."""
        return "" if find_spec("ai_edge_litert") else "pip install 'netgraft[litert]'"

    def lacks(self, precision: str) -> str:
        """See :class:`~.networks.Engine`."""
        return (
            "" if precision == "fp32" else "a .tflite file is run in the precision that it was written in: leave it out"
        )

    def running(self, threads: int) -> AbstractContextManager[None]:
        """Nothing is needed."""
        return nullcontext()

    def load(self, variant: Variant, setting: Setting) -> _Program:
        """A file only: netgraft does not write any."""
        if not isinstance(variant.model, Path) or variant.model.suffix != ".tflite":
            raise MeasureError(
                "litert runs .tflite files; convert what 'netgraft export' writes (with litert-torch, say), "
                "and measure that"
            )
        return _Program(variant.model, setting.threads)


class _Program:
    def __init__(self, path: Path, threads: int) -> None:
        self.content, self.threads = path.read_bytes(), threads
        details = self._interpreter().get_input_details()
        self.inputs = [Input(d["name"], [int(n) for n in d["shape"]], np.dtype(d["dtype"]).name) for d in details]

    def _interpreter(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(model_content=self.content, num_threads=self.threads)

    def open(self, feed: Mapping[str, Array]) -> Session:
        interpreter = self._interpreter()
        interpreter.allocate_tensors()
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], feed[details["name"]])
        invoke: Session = interpreter.invoke
        return invoke


BY_NAME: dict[str, Engine] = {"litert": LiteRt()}
