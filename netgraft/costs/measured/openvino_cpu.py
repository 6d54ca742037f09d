"""OpenVINO on the CPU (``netgraft[openvino]``)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .networks import Array, Engine, Input, Session, Setting, Variant, as_onnx


class OpenVino:
    """One stream, for latency; the batch size is fixed, as OpenVINO recommends.

    By itself OpenVINO computes in bf16 wherever the processor has it; here only where bf16 is asked for.
    """

    name = "openvino"

    def missing(self) -> str:
        """See :class:`~.networks.Engine`."""
        return "" if find_spec("openvino") else "pip install 'netgraft[openvino]'"

    def lacks(self, precision: str) -> str:
        """See :class:`~.networks.Engine`: OpenVINO itself says what the processor has."""
        if precision != "bf16":
            return ""
        import openvino as ov

        able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return "" if "BF16" in able else "this processor has no bf16 instructions; fp32 and int8 work"

    def running(self, threads: int) -> AbstractContextManager[None]:
        """Nothing is needed."""
        return nullcontext()

    def load(self, variant: Variant, setting: Setting) -> _Program:
        """Read, and quantise for int8 (as onnxruntime's is: the QDQ form)."""
        source = as_onnx(variant.model)
        if variant.precision == "int8":
            from .quantize import quantized

            source = quantized(source, variant.calibration, setting.batch)
        return _Program(source, variant.precision, setting)


class _Program:
    def __init__(self, source: bytes | Path, precision: str, setting: Setting) -> None:
        import openvino as ov

        self.core = ov.Core()
        self.model = self.core.read_model(source if isinstance(source, bytes) else str(source))
        for port in self.model.inputs:
            shape = port.get_partial_shape()
            if len(shape) and shape[0].is_dynamic:
                shape[0] = setting.batch
            self.model.reshape({port.get_any_name(): shape})
        self.inputs = [_input(port) for port in self.model.inputs]
        self.options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": setting.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # we pin, and undo it
        }

    def open(self, feed: Mapping[str, Array]) -> Session:
        request = self.core.compile_model(self.model, "CPU", self.options).create_infer_request()
        infer, given = request.infer, dict(feed)
        return lambda: infer(given, share_inputs=True, share_outputs=True)


def _input(port: Any) -> Input:
    shape = [str(size) if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
    kind = port.get_element_type()
    named = str(kind) if kind.get_type_name() in ("string", "dynamic", "bf16") else np.dtype(kind.to_dtype()).name
    return Input(port.get_any_name(), shape, named)


BY_NAME: dict[str, Engine] = {"openvino": OpenVino()}
