"""Labelled images where people keep them - parquet files, class folders, scikit-learn's digits - found and decoded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from torch import Tensor

from netgraft.errors import DataError

KINDS = (
    "'digits', a parquet file, a folder with train.parquet and test.parquet (or the two files, separated by a comma), "
    "a folder of class folders, or FILE.py:NAME"
)
SPELLINGS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_AT_ONCE = 256


@dataclass(frozen=True)
class Images:
    """Images not yet decoded, their labels (int64 [N]) and, for messages, where each of them lies."""

    images: Sequence[bytes | Path | npt.NDArray[np.uint8]]
    labels: npt.NDArray[np.int64]
    places: Sequence[str]

    def take(self, rows: npt.NDArray[np.int64]) -> Images:
        """The images of these rows, in this order."""
        return Images([self.images[row] for row in rows], self.labels[rows], [self.places[row] for row in rows])


@dataclass(frozen=True)
class Collection:
    """What a spec stands for: training images, the other splits where they are given, the names of the classes.

    `mirrored` says whether an image seen in a mirror still belongs to its class, as far as is known.
    """

    train: Images
    validation: Images | None = None
    test: Images | None = None
    classes: tuple[str, ...] = ()
    mirrored: bool = True


def find(spec: str) -> Collection:
    """Read what `spec` stands for (see `netgraft.tasks.load`), without decoding it; raises `DataError`."""
    if spec == "digits":
        return _digits()
    path, files = Path(spec), [Path(part) for part in spec.split(",")]
    if len(files) == 2 and all(file.suffix == ".parquet" for file in files):
        return _parquet({"train": files[:1], "test": files[1:]})
    if not path.exists():
        raise DataError(f"{spec} does not exist; data is {KINDS}")
    if path.suffix == ".parquet" and path.is_file():
        return _parquet({"train": [path]})
    if path.is_file():
        raise DataError(f"{spec} is no data that netgraft reads; data is {KINDS}")
    found = shards(path)
    return _parquet(found) if found["train"] else _folder(path)


def shards(path: Path) -> dict[str, list[Path]]:
    """The parquet files in a folder, by split: ``train.parquet``, or ``train-00000-of-00002.parquet`` and so on."""
    return {
        split: sorted(
            file for name in names for pattern in ("", "-*") for file in path.glob(f"{name}{pattern}.parquet")
        )
        for split, names in SPELLINGS.items()
    }


def decode(images: Images, shape: tuple[int, int, int]) -> tuple[Tensor, int]:
    """Decode to uint8 [N, C, H, W] for `shape` (C, H, W), C being 1 or 3; also the number of images resized for it.

    Raises `DataError` that names the place of an image that cannot be decoded.
    """
    channels, height, width = shape
    pixels = np.empty((len(images.images), *shape), dtype=np.uint8)

    def decode_rows(start: int) -> int:
        resized = 0
        for row in range(start, min(start + _AT_ONCE, len(pixels))):
            try:
                image = opened(images.images[row])
                resized += image.size != (width, height)
                image = image.convert("L" if channels == 1 else "RGB")
                if image.size != (width, height):
                    image = image.resize((width, height), Image.Resampling.BILINEAR)
            except Exception as error:  # Pillow's readers raise whatever a damaged file drives them to
                raise DataError(f"{images.places[row]}: the image cannot be decoded ({error})") from error
            pixels[row] = np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
        return resized

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        resized = sum(pool.map(decode_rows, range(0, len(pixels), _AT_ONCE)))
    return torch.from_numpy(pixels), resized


def opened(source: bytes | Path | npt.NDArray[np.uint8]) -> Image.Image:
    """An image as Pillow reads it, turned as its EXIF data says, of 8 bits a channel."""
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    image = ImageOps.exif_transpose(Image.open(BytesIO(source) if isinstance(source, bytes) else source))
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion would clip instead of scale
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def _digits() -> Collection:
    from sklearn.datasets import load_digits  # takes a second to import, and nothing else here needs it

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = Images(list(pixels), digits.target.astype(np.int64), [f"digit {row}" for row in range(len(pixels))])
    return Collection(images, classes=tuple(str(name) for name in digits.target_names), mirrored=False)


def _parquet(files: Mapping[str, list[Path]]) -> Collection:
    splits = {split: _joined(map(_parquet_file, paths)) for split, paths in files.items() if paths}
    classes = _class_names(pq.read_schema(files["train"][0]).metadata or {})
    return Collection(splits["train"], splits.get("validation"), splits.get("test"), classes)


def _joined(parts: Iterable[Images]) -> Images:
    parts = list(parts)
    return Images(
        [image for part in parts for image in part.images],
        np.concatenate([part.labels for part in parts]),
        [place for part in parts for place in part.places],
    )


def _parquet_file(path: Path) -> Images:
    if not path.is_file():
        raise DataError(f"{path} does not exist; data is {KINDS}")
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for name in ("image", "label"):
                if name not in names:
                    raise DataError(
                        f"{path} has no column '{name}', its columns are {', '.join(names)}; "
                        "name the encoded images 'image' and the integer classes 'label'"
                    )
            table = file.read(columns=["image", "label"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from error
    images, labels = table["image"], table["label"]
    if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
        images = pc.struct_field(images, "bytes")
    if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
        raise DataError(f"{path}: column 'image' holds {images.type} instead of encoded images (PNG, JPEG) as bytes")
    if not pa.types.is_integer(labels.type):
        raise DataError(f"{path}: column 'label' holds {labels.type} instead of integer classes counted from 0")
    for name, column in (("image", images), ("label", labels)):
        if column.null_count:
            raise DataError(f"{path}, row {pc.index(column.is_null(), True)}: the {name} is missing")
    places = [f"{path}, row {row}" for row in range(len(table))]
    return Images(images.to_pylist(), labels.to_numpy().astype(np.int64), places)


def _class_names(metadata: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The names in a parquet schema's metadata: those of Hugging Face's `ClassLabel`, or a key `classes`, "a,b,c"."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        names = metadata.get(b"classes", b"").decode().split(",")
    return tuple(str(name) for name in names if name)


def _folder(path: Path) -> Collection:
    folders = _subfolders(path)
    levels = {split: [f for f in folders if f.name in names] for split, names in SPELLINGS.items()}
    if not levels["train"] or sum(map(len, levels.values())) < len(folders):  # "train" may be a class beside "car"
        levels = {"train": [path]}
    classes = tuple(folder.name for folder in _subfolders(levels["train"][0]))
    splits = {split: _class_folders(found[0], classes) for split, found in levels.items() if found}
    return Collection(splits["train"], splits.get("validation"), splits.get("test"), classes)


def _class_folders(path: Path, classes: Sequence[str]) -> Images:
    files: list[Path] = []
    labels: list[int] = []
    for folder in _subfolders(path):
        if folder.name not in classes:
            raise DataError(f"{folder}: there is no class '{folder.name}' in the training data")
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        files += found
        labels += [classes.index(folder.name)] * len(found)
    if not files:
        raise DataError(f"{path} holds no folders with images; data is {KINDS}")
    return Images(files, np.array(labels, dtype=np.int64), [str(file) for file in files])


def _subfolders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
