"""DATA for a network: the task that a user names, in the shape that the network takes."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from urllib.parse import parse_qsl

from netgraft import tasks
from netgraft.convert.image_sizes import step_of_sizes
from netgraft.errors import DataError, OptionError
from netgraft.ir import Batch, Graph, Model

OPTIONS: Mapping[str, frozenset[str]] = {
    "denoising": frozenset(["sigma", "quality"]),
    "super-resolution": frozenset(["quality"]),
    "segmentation": frozenset(["first"]),
    "key-points": frozenset(["alpha"]),
}
"""The tasks that are named before the data, ``denoising:pictures/?sigma=25``, with their options."""


def task(
    data: str | PathLike[str], model: Model, *, seed: int = 0, subset: int | None = None, normalize: str = "data"
) -> tasks.Task:
    """The task that ``data`` names: ``digits``, a parquet file or a folder of them in the Hugging Face image layout,
    a folder of class folders, or ``FILE.py:NAME`` (torch datasets, tensors or a Task: see
    :func:`netgraft.tasks.load`); or one on pictures: ``denoising:PICTURES?sigma=25``, ``super-resolution:PICTURES``
    (both with ``quality=psnr`` or ``ssim``), ``segmentation:PICTURES?first=0`` or ``key-points:FOLDER?alpha=0.1`` (see
    :mod:`netgraft.tasks.restoration`, :mod:`netgraft.tasks.segmentation` and :mod:`netgraft.tasks.key_points`).

    Images are brought to the network's channels and size; denoising and super-resolution are judged on whole pictures
    where the network takes them. ``seed`` decides how the splits are drawn where the data does
    not say, ``subset`` limits the number of training examples (or pictures) before a validation split is taken out of
    them. ``normalize`` says what the network was trained to expect of images: ``data``, ``none``, ``imagenet`` or
    ``MEANS/DEVIATIONS`` (see :func:`netgraft.tasks.load`); restoration takes pixels from 0 to 1. DataError where
    network and data cannot fit.
    """
    name = fspath(data)
    signature = model.graph.signature
    if len(signature.inputs) != 1 or not isinstance(signature.inputs[0].shape[0], Batch):
        raise DataError(f"{model.name} takes {signature}; a task needs one input whose first dimension is the batch")
    shape, output = signature.inputs[0].concrete()[1:], signature.outputs[0]
    kind, _, pictures = name.partition(":")
    own = kind.endswith(".py")
    if not own and len(shape) != 3:
        raise DataError(f"{model.name} takes {signature.inputs[0]}; images need an input [N,C,H,W]")
    single = len(signature.outputs) == 1 and isinstance(output.shape[0], Batch)
    if kind in OPTIONS:
        if not single or output.rank != 4:
            raise DataError(
                f"{model.name} gives {', '.join(map(str, signature.outputs))}; {kind} needs one output [N,C,H,W]"
            )
        return _on_pictures(kind, pictures, model.graph, seed, subset, normalize)
    if not own and (not single or output.rank != 2):
        raise DataError(
            f"{model.name} gives {', '.join(map(str, signature.outputs))}; labelled images need one output "
            f"[N,classes]. A network that gives maps wants {', '.join(f'{known}:PICTURES' for known in OPTIONS)}, or a "
            "task of your own, FILE.py:NAME"
        )
    return tasks.load(
        name, input_shape=shape, classes=output.concrete()[-1], seed=seed, subset=subset, normalize=normalize
    )


def _on_pictures(
    kind: str,
    text: str,
    graph: Graph,
    seed: int,
    subset: int | None,
    normalize: str,
) -> tasks.Task:
    shape, output = (_three(types[0].concrete()[1:]) for types in (graph.signature.inputs, graph.signature.outputs))
    pictures, _, query = text.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - OPTIONS[kind])
    if unknown:
        known = ", ".join(sorted(OPTIONS[kind])) or "none"
        raise OptionError(f"{kind} has no option {unknown[0]!r}; it has {known}")
    if subset is not None and subset < 1:
        raise OptionError(f"subset must be at least 1, not {subset}")
    if kind == "segmentation":
        first = int(_number(options.get("first", "0"), "first"))
        return tasks.segmentation(pictures, shape, output[0], first, seed, subset, normalize)
    if kind == "key-points":
        alpha = _number(options.get("alpha", "0.1"), "alpha")
        return tasks.key_points(pictures, shape, output[0], alpha, seed, subset, normalize)
    if normalize not in ("data", "none"):
        raise OptionError(f"{kind} takes pixels from 0 to 1 as they are; leave out --normalize {normalize}")
    quality, step = options.get("quality", "psnr"), step_of_sizes(graph)
    if kind == "super-resolution":
        return tasks.super_resolution(pictures, shape, output, quality, seed, subset, step)
    if output != shape:
        raise DataError(f"denoising needs a network whose output is as large as its input: {shape}, not {output}")
    sigma = _number(options.get("sigma", "25"), "sigma")
    return tasks.denoising(pictures, shape, sigma, quality, seed, subset, step)


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{option}={text} is no number") from None
