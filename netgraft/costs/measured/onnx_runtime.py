"""onnxruntime on the CPU: the engine that needs nothing beside netgraft."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .networks import Array, Engine, Input, Session, Setting, Variant, as_onnx

_DTYPES = {"float": "float32", "double": "float64", "float16": "float16"}  # others are called as in numpy


class OnnxRuntime:
    """Full optimisation, the CPU provider, threads that do not spin between two runs."""

    name = "onnxruntime"

    def missing(self) -> str:
        """See :class:`~.networks.Engine`."""
        return "" if find_spec("onnxruntime") else "pip install onnxruntime"

    def lacks(self, precision: str) -> str:
        """See :class:`~.networks.Engine`: it has no bf16 convolutions for CPUs."""
        return "it computes no convolutions in bf16 on a CPU; openvino and torch do" if precision == "bf16" else ""

    def running(self, threads: int) -> AbstractContextManager[None]:
        """Nothing is needed."""
        return nullcontext()

    def load(self, variant: Variant, setting: Setting) -> _Program:
        """Read, and quantise for int8."""
        source = as_onnx(variant.model)
        if variant.precision == "int8":
            from .quantize import quantized

            source = quantized(source, variant.calibration, setting.batch)
        return _Program(source, setting.threads)


class _Program:
    def __init__(self, source: bytes | Path, threads: int) -> None:
        self.source = source if isinstance(source, bytes) else str(source)
        self.threads = threads
        self.inputs = [input_of(spec) for spec in self._session().get_inputs()]

    def _session(self) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, too
        # Threads that spin between two runs steal the core from whoever is measured next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return ort.InferenceSession(self.source, options, providers=["CPUExecutionProvider"])

    def open(self, feed: Mapping[str, Array]) -> Session:
        run = self._session().run
        return lambda: run(None, feed)


def input_of(spec: Any) -> Input:
    """What a session says of one of its inputs."""
    inner = spec.type.removeprefix("tensor(").removesuffix(")")
    dtype = _DTYPES.get(inner, inner)
    return Input(spec.name, spec.shape, spec.type if dtype == "string" else dtype)


BY_NAME: dict[str, Engine] = {"onnxruntime": OnnxRuntime()}
