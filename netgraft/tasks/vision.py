"""Image classification tasks: `load` turns data into three splits in memory, checked against the network.

Images are decoded once, to uint8 in the network's channels and size; crops, flips and normalisation happen batch by
batch during training. Nothing is cached on disk.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from netgraft.errors import DataError, NetgraftError, OptionError
from netgraft.tasks.datasets import READ_ONCE, read
from netgraft.tasks.device import moved
from netgraft.tasks.images import KINDS, Collection, Images, decode, find
from netgraft.tasks.task import Split, Task, classification


@dataclass(frozen=True)
class Normalise:
    """uint8 images [N, C, H, W] -> float32 with mean 0 and deviation 1 in each channel; `mean` and `std` in 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        mean, std = (moved(torch.tensor(values).view(1, -1, 1, 1), images.device) for values in (self.mean, self.std))
        return torch.sub(images, mean).div_(std)


@dataclass(frozen=True)
class CropAndFlip:
    """A random crop of each image [N, C, H, W] after black padding; half of them mirrored left to right if `flip`.

    Classes stay what they are.
    """

    padding: int
    flip: bool

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count, _, height, width = images.shape
        padded = F.pad(images, (self.padding,) * 4)
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # [N, C, top, left, H, W], a view: nothing is copied
        top, left = moved(torch.randint(2 * self.padding + 1, (2, count), generator=generator), images.device)
        images = crops[torch.arange(count, device=images.device), :, top, left]
        if self.flip:
            mirrored = moved(torch.rand(count, generator=generator) < 0.5, images.device)
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        return images, targets


def load(
    spec: str | os.PathLike[str],
    *,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int = 0,
    subset: int | None = None,
    normalize: str = "data",
) -> Task:
    """A classification task for a network that takes `input_shape` (C, H, W) and gives `classes` outputs.

    `spec` is one of

    - `digits`: scikit-learn's 1,797 handwritten digits;
    - a parquet file, two of them as `TRAIN.parquet,TEST.parquet`, or a folder that holds train.parquet and perhaps
      validation.parquet and test.parquet (or their shards, train-*.parquet), in the Hugging Face image layout: a column
      `image` (encoded bytes, or a struct with a field `bytes`) and an integer column `label`;
    - a folder with one folder of images a class, perhaps below train/, val/ and test/;
    - `FILE.py:NAME`: train, (train, test) or (train, validation, test), each of them a map-style torch `Dataset` of
      (image, class number) or a pair (inputs, targets) of tensors; or a `Task`; or a function of no arguments that
      returns one of these. Images are PIL images or uint8 arrays, treated like all others; or tensors of the network's
      input shape: uint8 ones are normalised and augmented like all others, floats taken as they are. Datasets are read
      once, into memory. A `Task` is only checked for the shape of its inputs. The file is run, like a script.

    Images are converted to the network's channels and size. Where they are not given, the validation and the test split
    are taken out of the training data: a fifth of it each, at most 5,000 examples, all classes in their shares, drawn
    by `seed`. `subset` is the number of examples taken from the training data before anything is split
    off; a test set that was given stays whole. What was done stands in the task's `notes`.

    `normalize` says what a network was trained to expect of images: `data` (the mean and deviation of the training
    split), `none` (pixels from 0 to 1), `imagenet`, or means and deviations as `0.5,0.5,0.5/0.25,0.25,0.25`.

    Raises `DataError` for data that cannot be read or does not fit the network.
    """
    name = os.fspath(spec)
    if subset is not None and subset < 1:
        raise OptionError(f"subset must be at least 1, not {subset}")
    if not name.rpartition(":")[0].endswith(".py"):
        return _from_images(name, find(name), input_shape, classes, seed, subset, normalize)
    return _from_python(name, input_shape, classes, seed, subset, normalize)


def _from_images(
    name: str,
    found: Collection,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
    subset: int | None,
    normalize: str,
    notes: Sequence[str] = (),
) -> Task:
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise DataError(
            f"{name} holds images of 1 or 3 channels, the network takes inputs of shape {input_shape}; "
            "FILE.py:NAME can give tensors of any shape"
        )
    rows, taken = _taken_out(found.train.labels, found.validation is None, found.test is None, seed, subset)
    train = found.train.take(rows["train"])
    validation = found.validation or found.train.take(rows["validation"])
    test = found.test or found.train.take(rows["test"])
    for split, images in (("train", train), ("validation", validation), ("test", test)):
        _check_labels(f"{name} ({split})", images.labels, classes)
    channels, height, width = input_shape
    decoded = [decode(images, (channels, height, width)) for images in (train, validation, test)]
    resized = sum(count for _, count in decoded)
    notes = [*notes, *taken]
    if resized:
        notes.append(f"{resized:,} images were resized to {height} x {width}, whatever their aspect ratio.")
    splits = [
        Split(pixels, torch.from_numpy(images.labels))
        for (pixels, _), images in zip(decoded, (train, validation, test), strict=True)
    ]
    return _task(name, splits, classes, found.classes, found.mirrored, notes, normalize)


def _taken_out(
    labels: npt.NDArray[np.int64], validation: bool, test: bool, seed: int, subset: int | None
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    """Which rows of the training data go to which split, and notes that say so."""
    rows = _spread(labels, np.random.default_rng(seed))[:subset]
    share = min(len(rows) // 5, 5000)
    found, notes = {}, []
    for split in ("test",) * test + ("validation",) * validation:
        found[split], rows = rows[:share], rows[share:]
        notes.append(f"The {split} split is {share:,} examples taken out of the training data.")
    return found | {"train": rows}, notes


def _from_python(
    name: str, input_shape: tuple[int, ...], classes: int, seed: int, subset: int | None, normalize: str
) -> Task:
    value = _run(name)
    if isinstance(value, Task):
        if subset is not None:
            raise OptionError(f"subset cannot be used with {name}: let its Task have fewer examples")
        for each in (value.train, value.validation, value.test):
            if isinstance(each, Split):  # where sizes are mixed, the network has to take any
                _check_shape(name, each, input_shape)
        return value
    given = _parts(name, value)
    datasets = [part for part in given.values() if isinstance(part, Dataset)]
    names = tuple(map(str, getattr(datasets[0], "classes", ()))) if datasets else ()
    notes = [READ_ONCE] if datasets else []
    parts = {split: _examples(f"{name} ({split})", part) for split, part in given.items()}
    images = {split: part for split, part in parts.items() if isinstance(part, Images)}
    splits = {split: part for split, part in parts.items() if isinstance(part, Split)}
    if images and splits:
        raise DataError(
            f"{name} gives images for {', '.join(images)} and tensors for {', '.join(splits)}; give one kind"
        )
    if images:
        found = Collection(images["train"], images.get("validation"), images.get("test"), names)
        return _from_images(name, found, input_shape, classes, seed, subset, normalize, notes)
    for split, part in splits.items():
        _check_labels(f"{name} ({split})", part.targets.numpy(), classes)
        _check_shape(name, part, input_shape)
    train = splits["train"]
    rows, taken = _taken_out(train.targets.numpy(), "validation" not in splits, "test" not in splits, seed, subset)
    splits |= {split: Split(train.inputs[chosen], train.targets[chosen]) for split, chosen in rows.items()}
    in_order = [splits["train"], splits["validation"], splits["test"]]
    return _task(name, in_order, classes, names, notes=[*notes, *taken], normalize=normalize)


def _parts(name: str, value: Any) -> dict[str, Any]:
    """What a file gave, by split."""
    if isinstance(value, Dataset) or _is_pair(value):
        return {"train": value}
    if isinstance(value, tuple | list) and all(isinstance(part, Dataset) or _is_pair(part) for part in value):
        if len(value) == 2:
            return {"train": value[0], "test": value[1]}
        if len(value) == 3:
            return {"train": value[0], "validation": value[1], "test": value[2]}
    raise DataError(
        f"{name} gives {type(value).__name__} that is neither a Task nor train, (train, test) or (train, validation, "
        "test), each a torch Dataset or a pair (inputs, targets) of tensors"
    )


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(x, Tensor | np.ndarray) for x in value)
    )


def _examples(place: str, part: Any) -> Images | Split:
    """A split as a file gave it, its class numbers as int64 [N]."""
    found = read(part, place) if isinstance(part, Dataset) else part
    if isinstance(found, Images):
        return found
    inputs, targets = (torch.as_tensor(values) for values in found)
    if targets.ndim != 1 or targets.is_floating_point():
        raise DataError(
            f"{place}: targets are {targets.dtype} of shape {tuple(targets.shape)} instead of one class number an "
            "example; give a Task with a loss and a quality of its own for anything but classification"
        )
    return Split(inputs, targets.long())


def _check_shape(name: str, split: Split, input_shape: tuple[int, ...]) -> None:
    if tuple(split.inputs.shape[1:]) != tuple(input_shape):
        raise DataError(
            f"{name} gives inputs of shape {tuple(split.inputs.shape[1:])}, the network takes {tuple(input_shape)}"
        )


def _task(
    name: str,
    splits: Sequence[Split],
    classes: int,
    names: tuple[str, ...] = (),
    mirrored: bool = True,
    notes: Sequence[str] = (),
    normalize: str = "data",
) -> Task:
    """Splits with class numbers as a task: uint8 images are normalised and augmented, other inputs taken as floats."""
    train, validation, test = splits
    seen = int(max(split.targets.max() for split in splits)) + 1
    if seen < classes:
        notes = [
            *notes,
            f"The data has {seen} classes, the network gives {classes} outputs: the others are never right.",
        ]
    if train.inputs.dtype != torch.uint8 or train.inputs.ndim != 4:
        return classification(name, train, validation, test, prepare=Tensor.float, classes=names, notes=tuple(notes))
    prepare = normalisation(train.inputs, normalize)
    augment = CropAndFlip(padding=max(1, train.inputs.shape[2] // 8), flip=mirrored)
    mean, std = (", ".join(f"{value / 255:.4f}" for value in values) for values in (prepare.mean, prepare.std))
    notes = [
        *notes,
        f"Inputs are pixels from 0 to 1, less the mean {mean}, divided by {std}.",
        f"Training images are cropped at random after padding by {augment.padding}{' and mirrored' * mirrored}.",
    ]
    return classification(
        name, train, validation, test, prepare=prepare, augment=augment, classes=names, notes=tuple(notes)
    )


def _check_labels(place: str, labels: npt.NDArray[np.int64], classes: int) -> None:
    if not len(labels):
        raise DataError(f"{place}: the split is empty; give more images")
    if labels.min() < 0:
        raise DataError(f"{place}: classes are counted from 0, but one label is {labels.min()}")
    if labels.max() >= classes:
        raise DataError(
            f"{place}: the data has {labels.max() + 1} classes, the network gives {classes} outputs; "
            f"give its last layer {labels.max() + 1} outputs, or leave examples of the other classes out"
        )


def _spread(labels: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A random order of the rows in which every stretch holds the classes in about their shares of the whole."""
    position = np.empty(len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        position[rows] = (np.arange(len(rows)) + rng.random(len(rows))) / len(rows)
    return np.argsort(position)


_IMAGENET = "0.485,0.456,0.406/0.229,0.224,0.225"


def normalisation(images: Tensor, how: str) -> Normalise:
    """The normalisation that a user asks for: see :func:`load`."""
    if how == "data":
        return _own_statistics(images)
    channels = images.shape[1]
    text = {"none": "/".join([",".join(["0"] * channels), ",".join(["1"] * channels)]), "imagenet": _IMAGENET}.get(
        how, how
    )
    try:
        means, stds = (tuple(255 * float(part) for part in half.split(",")) for half in text.split("/"))
    except ValueError:
        means, stds = (), ()
    if not len(means) == len(stds) == channels or min(stds, default=0) <= 0:
        raise OptionError(
            f"cannot normalise {channels} channels by {how!r}; use data, none, imagenet, or means and deviations "
            "like 0.5,0.5,0.5/0.25,0.25,0.25"
        )
    return Normalise(means, stds)


def _own_statistics(images: Tensor) -> Normalise:
    """The normalisation of uint8 images by their own statistics, exact: counted from the 256 values in each channel."""
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(mean.item())
        stds.append((share * (values - mean) ** 2).sum().sqrt().item() or 1.0)  # a channel may be constant
    return Normalise(tuple(means), tuple(stds))


def _run(spec: str) -> Any:
    """The object that `FILE.py:NAME` names, called if it is a function; what the file raises becomes a `DataError`."""
    place, _, name = spec.rpartition(":")
    path = Path(place).resolve()
    if not path.is_file():
        raise DataError(f"{place} does not exist; data is {KINDS}")
    module_name = f"netgraft_task_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    assert module_spec is not None and module_spec.loader is not None  # a file that ends in .py has a loader
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # where dataclasses and pickle look up what the file defines
    sys.path.insert(0, str(path.parent))
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, name):
            known = [key for key in vars(module) if not key.startswith("_")]
            raise DataError(f"{place} has no '{name}'; it has {', '.join(known) or 'nothing'}")
        value = getattr(module, name)
        return value() if callable(value) and not isinstance(value, Dataset) else value
    except NetgraftError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines.append(error.lineno)
        line = f", line {lines[-1]}" if lines else ""
        raise DataError(f"{place}{line}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
