"""DATA for a network: the task that a user names, in the shape that the network takes."""

from __future__ import annotations

from os import PathLike, fspath

from netgraft import tasks
from netgraft.errors import DataError
from netgraft.ir import Batch, Model


def task(
    data: str | PathLike[str], model: Model, *, seed: int = 0, subset: int | None = None, normalize: str = "data"
) -> tasks.Task:
    """The task that ``data`` names: ``digits``, a parquet file or a folder of them in the Hugging Face image layout,
    a folder of class folders, or ``FILE.py:NAME`` (torch datasets, tensors or a Task: see
    :func:`netgraft.tasks.load`).

    Images are brought to the network's channels and size. ``seed`` decides how the splits are drawn where the data does
    not say, ``subset`` limits the number of training examples before a validation split is taken out of them.
    ``normalize`` says what the network was trained to expect of images: ``data``, ``none``, ``imagenet`` or
    ``MEANS/DEVIATIONS`` (see :func:`netgraft.tasks.load`). DataError where network and data cannot fit.
    """
    name = fspath(data)
    signature = model.graph.signature
    if len(signature.inputs) != 1 or not isinstance(signature.inputs[0].shape[0], Batch):
        raise DataError(f"{model.name} takes {signature}; a task needs one input whose first dimension is the batch")
    shape, output = signature.inputs[0].concrete()[1:], signature.outputs[0]
    own = name.partition(":")[0].endswith(".py")
    if not own and len(shape) != 3:
        raise DataError(f"{model.name} takes {signature.inputs[0]}; images need an input [N,C,H,W]")
    if not own and (len(signature.outputs) != 1 or output.rank != 2 or not isinstance(output.shape[0], Batch)):
        raise DataError(
            f"{model.name} gives {', '.join(map(str, signature.outputs))}; labelled images need one output "
            "[N,classes]. For another kind of task, write it as FILE.py:NAME"
        )
    return tasks.load(
        name, input_shape=shape, classes=output.concrete()[-1], seed=seed, subset=subset, normalize=normalize
    )
