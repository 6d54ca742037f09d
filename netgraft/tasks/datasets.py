"""Torch datasets read into memory: once, item by item."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from netgraft.errors import DataError
from netgraft.tasks.images import Images

READ_ONCE = "The items of the datasets were read once: a random transform in them does not vary between epochs."


def read(dataset: Dataset[Any], place: str) -> Images | tuple[Tensor, Tensor]:
    """The items of a map-style dataset, each an image and its class number.

    PIL images and uint8 arrays ([H, W] or [H, W, C]) become :class:`Images`, of any sizes; tensors and other arrays,
    all of one shape, a tensor [N, ...] with the labels, int64 [N]. DataError names the item that does not fit.
    """
    try:
        count = len(dataset)  # type: ignore[arg-type]  # not every dataset has a length, which is the question
    except (TypeError, NotImplementedError):
        raise DataError(
            f"{place} is a {type(dataset).__name__} without a length; give a map-style dataset (len and [row])"
        ) from None
    if not count:
        raise DataError(f"{place} is empty: it needs at least one example")
    places = [f"{place}, item {row}" for row in range(count)]
    items = [_item(dataset, row, where) for row, where in enumerate(places)]
    labels = np.array([label for _, label in items], dtype=np.int64)
    pictures = [_picture(image) for image, _ in items]
    if all(picture is not None for picture in pictures):
        return Images([picture for picture in pictures if picture is not None], labels, places)
    tensors = [_tensor(image, where) for (image, _), where in zip(items, places, strict=True)]
    for tensor, where in zip(tensors, places, strict=True):
        if (tensor.shape, tensor.dtype) != (tensors[0].shape, tensors[0].dtype):
            raise DataError(
                f"{where} is {_described(tensor)}, but item 0 is {_described(tensors[0])}; bring all to one shape and "
                "type, with a Resize and a CenterCrop, say, or give PIL images, which are resized here"
            )
    return torch.stack(tensors), torch.from_numpy(labels)


def _item(dataset: Dataset[Any], row: int, where: str) -> tuple[Any, int]:
    try:
        item = dataset[row]
    except Exception as error:  # whatever the code of the dataset raises
        raise DataError(f"{where} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"{where} is a {type(item).__name__} instead of a pair (image, class number)")
    image, label = item
    try:
        number = operator.index(label)  # of integers of Python, numpy and torch alike
    except (TypeError, ValueError):
        raise DataError(
            f"{where}: the label is {label!r} instead of a class number; give a Task with a loss and a quality of its "
            "own for anything but classification"
        ) from None
    return image, number


def _picture(image: Any) -> npt.NDArray[np.uint8] | None:
    """What is treated like an image out of a file; None for what is taken as it is."""
    if isinstance(image, Image):
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2:] == (3,)):
        return image
    return None


def _tensor(image: Any, where: str) -> Tensor:
    try:
        return torch.as_tensor(image)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{where}: the image is a {type(image).__name__}; give tensors, arrays or PIL images") from None


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
