"""int8 after training: onnxruntime's static quantisation, in the QDQ form that openvino reads too."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .networks import Array, random_input

CALIBRATION = 8
"""How many random batches show the value ranges where no inputs are given."""


def quantized(source: bytes | Path, calibration: Sequence[Mapping[str, Array]] | None, batch: int) -> bytes:
    """The ONNX model with convolutions and products in int8: weights by channel, activations by their observed range.

    With random inputs the time is right and the outputs are not to be trusted.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from .onnx_runtime import _Program

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self, inputs: Iterator[Mapping[str, Array]]) -> None:
            self.inputs = inputs

        def get_next(self) -> Any:
            return next(self.inputs, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared, written = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        given = source
        if isinstance(source, bytes):
            given = Path(folder, "model.onnx")
            given.write_bytes(source)
        if calibration is None:
            specs = _Program(source, 1).inputs
            calibration = [
                {spec.name: random_input(spec, batch, "the model", seed) for spec in specs}
                for seed in range(CALIBRATION)
            ]
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it recommends what is done here already
        try:
            quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(written),
                Reader(iter(calibration)),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.root.setLevel(level)
        return written.read_bytes()
