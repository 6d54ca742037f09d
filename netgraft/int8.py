"""Eight bits on the same front: networks quantised after training, judged and measured beside themselves.

Fewer operations and fewer bits are two ways to the same end. Convolutions and products are quantised by onnxruntime
(:mod:`netgraft.costs.measured.quantize`), with the value ranges that training images show, and no training follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from netgraft.convert.onnx import to_onnx
from netgraft.costs.measured import Ratio, compare
from netgraft.costs.measured.quantize import quantized
from netgraft.errors import MeasureError
from netgraft.ir import Model
from netgraft.tasks import Score, Task, evaluate
from netgraft.tasks.judging import evaluate_each
from netgraft.tasks.paired import paired_error

PRECISIONS = ("fp32", "int8")
_BATCH = 32


@dataclass(frozen=True)
class Figures:
    """A network in one precision: its quality, what it takes beside the first network in fp32, and its file; and how
    well is known how far its ``test`` quality lies from the first's (None for that itself).
    """

    network: str
    precision: str
    validation: Score
    test: Score
    time: Ratio
    onnx: bytes = field(repr=False)
    difference_error: float | None = None


def side_by_side(
    models: Mapping[str, Model],
    task: Task,
    *,
    images: int = 512,
    seed: int = 0,
    engine: str = "onnxruntime",
    seconds: float = 40.0,
) -> list[Figures]:
    """Each of ``models`` (by the names to call them) in fp32 and in int8; times are multiples of the first's in fp32.

    The ranges of activations are those of so many training ``images``, drawn by ``seed``. Quality is what onnxruntime
    computes, the engine that times are measured on may be another. MeasureError where a network cannot be quantised.
    """
    task = task.to("cpu")  # where onnxruntime computes
    files = [
        (name, precision, _file(model, task, precision, images, seed))
        for name, model in models.items()
        for precision in PRECISIONS
    ]
    times = compare([file for _, _, file in files], files[0][2], engine=engine, seconds=seconds, seed=seed)
    found: list[Figures] = []
    first: Tensor | None = None
    for (name, precision, file), time in zip(files, times, strict=True):
        module = _Session(file)
        validation, (test, tested) = evaluate(module, task, "validation"), evaluate_each(module, task, "test")
        error = None if first is None else paired_error(task.quality, tested, first)
        first = tested if first is None else first
        found.append(Figures(name, precision, validation, test, time, file, error))
    return found


def _file(model: Model, task: Task, precision: str, images: int, seed: int) -> bytes:
    exact = to_onnx(model)
    if precision == "fp32":
        return exact
    (given,) = model.graph.inputs
    rows = np.random.default_rng(seed).permutation(len(task.train))[:images]
    shown = [{given.id: _prepared(task, rows[at : at + _BATCH])} for at in range(0, len(rows), _BATCH)]
    try:
        return quantized(exact, shown, _BATCH)
    except Exception as error:  # the quantiser raises whatever a graph that it does not know drives it to
        raise MeasureError(f"{model.name} cannot be quantised: {type(error).__name__}: {error}") from error


def _prepared(task: Task, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        return task.prepare(task.train.inputs[torch.from_numpy(rows)]).numpy()


class _Session(nn.Module):
    """An ONNX file as a module, to be judged as all others are, on images of any size that its nodes take."""

    def __init__(self, file: bytes) -> None:
        super().__init__()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(_of_any_size(file), options, providers=["CPUExecutionProvider"])
        (self.given,) = [one.name for one in self.session.get_inputs()]

    def forward(self, inputs: Tensor) -> Tensor:
        """The first output."""
        return torch.from_numpy(self.session.run(None, {self.given: inputs.numpy()})[0])


def _of_any_size(file: bytes) -> bytes:
    """The file without the heights and widths of its images: onnxruntime holds to those that are written down."""
    read = onnx.load_from_string(file)
    del read.graph.value_info[:]
    for value in (*read.graph.input, *read.graph.output):
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if place > 1:
                dim.dim_param = f"{value.name}_{place}"
    data: bytes = read.SerializeToString()
    return data
