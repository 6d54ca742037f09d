"""Pictures that have no class, perhaps with masks: found where people keep them, decoded, and cut into pieces."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from netgraft.errors import DataError
from netgraft.tasks.images import SPELLINGS, SUFFIXES, opened, shards

KINDS = (
    "'samples' (scikit-learn's two photographs), a parquet file with a column 'image', TRAIN.parquet,TEST.parquet, a "
    "folder with train.parquet and perhaps test.parquet, or a folder of images, perhaps below train/, val/ and test/"
)
MASKED_KINDS = (
    "a parquet file with columns 'image' and 'mask', TRAIN.parquet,TEST.parquet, a folder with train.parquet and "
    "perhaps test.parquet, or a folder with images/ and masks/ (or annotations/, or leftImg8bit/ and gtFine/) in which "
    "files have the same names, perhaps below train/, val/ and test/"
)

Pixels = npt.NDArray[np.uint8]
Source = bytes | Path | Pixels

_FOLDERS = (("images", "masks"), ("images", "annotations"), ("leftImg8bit", "gtFine"))
_CITYSCAPES = ("_leftImg8bit", "_gtFine_labelTrainIds")


@dataclass(frozen=True)
class Pictures:
    """Pictures not yet decoded, where each of them lies, and their masks where these were asked for."""

    images: Sequence[Source]
    places: Sequence[str]
    masks: Sequence[bytes | Path] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int]) -> Pictures:
        """The pictures of these rows, in this order."""
        masks = [self.masks[row] for row in rows] if self.masks else ()
        return Pictures([self.images[row] for row in rows], [self.places[row] for row in rows], masks)


def find(spec: str, masked: bool = False) -> dict[str, Pictures]:
    """The pictures that ``spec`` stands for, by split: ``train`` at least. DataError where there are none."""
    kinds = MASKED_KINDS if masked else KINDS
    if spec == "samples" and not masked:
        return {"train": _samples()}
    files = [Path(part) for part in spec.split(",")]
    if len(files) == 2 and all(file.suffix == ".parquet" for file in files):
        return {"train": _parquet(files[:1], masked), "test": _parquet(files[1:], masked)}
    path = Path(spec)
    if not path.exists() or (path.is_file() and path.suffix != ".parquet"):
        raise DataError(f"{spec} {'does not exist' if not path.exists() else 'is no data'}; pictures are {kinds}")
    if path.is_file():
        return {"train": _parquet([path], masked)}
    found = {split: _parquet(paths, masked) for split, paths in shards(path).items() if paths}
    found = found or (_masked_folder(path) if masked else _folder(path))
    if "train" not in found:
        raise DataError(f"{spec} holds no training pictures; pictures are {kinds}")
    return found


class Rows(Protocol):
    """Pictures, with whatever belongs to them."""

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int]) -> Self:
        """The pictures of these rows, in this order."""


Found = TypeVar("Found", bound=Rows)


def split(found: Mapping[str, Found], seed: int, subset: int | None) -> tuple[dict[str, Found], list[str]]:
    """Train, validation and test: whole pictures are taken out of the training ones where a split is not given, a fifth
    for each and one at least; and notes that say so. ``subset`` is how many pictures are used of those for training.
    """
    rows = np.random.default_rng(seed).permutation(len(found["train"]))[:subset].tolist()
    share = max(1, len(rows) // 5)
    parts, notes = dict(found), []
    for name in ("test", "validation"):
        if name not in found:
            taken, rows = rows[:share], rows[share:]
            parts[name] = found["train"].take(taken)
            notes.append(f"The {name} split is {len(taken)} pictures taken out of the training ones.")
    if not rows:
        raise DataError(f"{len(found['train'])} pictures are too few for a training, a validation and a test split")
    parts["train"] = found["train"].take(rows)
    return parts, notes


def decoded(source: Source, place: str, channels: int) -> Pixels:
    """A picture as uint8 [H, W, C] of 1 or 3 channels; DataError that names it where it cannot be read."""
    try:
        image = opened(source).convert("L" if channels == 1 else "RGB")
        return np.asarray(image).reshape(image.height, image.width, channels)
    except Exception as error:  # Pillow's readers raise whatever a damaged file drives them to
        raise DataError(f"{place}: the image cannot be decoded ({error})") from error


def decoded_mask(source: bytes | Path, place: str) -> Image.Image:
    """A mask as an image of one channel that holds class numbers; DataError that names it where it is none."""
    try:
        mask = Image.open(BytesIO(source) if isinstance(source, bytes) else source)
        mask.load()
    except Exception as error:
        raise DataError(f"{place}: the mask cannot be decoded ({error})") from error
    if mask.mode not in ("L", "P", "1"):
        raise DataError(f"{place}: the mask has mode {mask.mode}; it needs one channel of class numbers (8 bits, or P)")
    return Image.fromarray(np.asarray(mask).astype(np.uint8))


def continued(picture: Pixels, step: int) -> Pixels:
    """A picture [H, W, C] continued by its edges, below and to the right, up to multiples of ``step``."""
    below, beside = (-size % step for size in picture.shape[:2])
    return np.pad(picture, ((0, below), (0, beside), (0, 0)), mode="edge")


def tiles(picture: Pixels, height: int, width: int, step: tuple[int, int]) -> list[Pixels]:
    """Pieces [height, width, C] of a picture, ``step`` apart; a picture that is smaller is continued by its edges."""
    h, w, _ = picture.shape
    if h < height or w < width:
        picture = np.pad(picture, ((0, max(0, height - h)), (0, max(0, width - w)), (0, 0)), mode="edge")
        h, w, _ = picture.shape
    return [
        picture[top : top + height, left : left + width]
        for top in range(0, h - height + 1, step[0])
        for left in range(0, w - width + 1, step[1])
    ]


def rgb(pixels: Tensor) -> Tensor:
    """Pictures [N, C, H, W] of 1 or 3 channels from 0 to 255 as uint8 [N, 3, H, W]."""
    return pixels.to(torch.uint8).expand(-1, 3, -1, -1)


def colours(count: int) -> list[tuple[int, int, int]]:
    """So many colours (RGB, 0 to 255) of evenly spaced hues, in turn light and dark."""
    made = (colorsys.hsv_to_rgb(i / count, 0.75, 0.7 if i % 2 else 1.0) for i in range(count))
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in made]


def _samples() -> Pictures:
    from sklearn.datasets import load_sample_images  # takes a second to import, and nothing else here needs it

    found = load_sample_images()
    halves = [half for image in found.images for half in np.array_split(image, 4, axis=1)]
    return Pictures(halves, [f"sample {row}" for row in range(len(halves))])


def _parquet(paths: Sequence[Path], masked: bool) -> Pictures:
    wanted = ("image", "mask") if masked else ("image",)
    columns: dict[str, list[bytes]] = {name: [] for name in wanted}
    places: list[str] = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} does not exist")
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                for name in wanted:
                    if name not in names:
                        raise DataError(f"{path} has no column '{name}', its columns are {', '.join(names)}")
                table = file.read(columns=list(wanted))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as parquet: {error}") from error
        for name in wanted:
            column = table[name]
            if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
                column = pc.struct_field(column, "bytes")
            if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)) or column.null_count:
                raise DataError(f"{path}: column '{name}' must hold encoded images (PNG, JPEG) as bytes in every row")
            columns[name] += column.to_pylist()
        places += [f"{path}, row {row}" for row in range(len(table))]
    return Pictures(columns["image"], places, columns.get("mask", ()))


def _splits(path: Path) -> dict[str, Path]:
    """The folders of the splits below ``path``, or ``path`` itself for training."""
    found = {
        split: path / name
        for split, names in SPELLINGS.items()
        for name in reversed((*names, "training") if split == "train" else names)
        if (path / name).is_dir()
    }
    return found if "train" in found else {"train": path}


def _pictures_below(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)


def _folder(path: Path) -> dict[str, Pictures]:
    found = {split: _pictures_below(folder) for split, folder in _splits(path).items()}
    return {split: Pictures(files, list(map(str, files))) for split, files in found.items() if files}


def _masked_folder(path: Path) -> dict[str, Pictures]:
    for name, beside in _FOLDERS:
        if (path / name).is_dir() and (path / beside).is_dir():
            found = {}
            for split, folder in _splits(path / name).items():
                files = _pictures_below(folder)
                masks = [_mask_of(file, path / name, path / beside) for file in files]
                if files:
                    found[split] = Pictures(files, list(map(str, files)), masks)
            return found
    return {}


def _mask_of(image: Path, images: Path, masks: Path) -> Path:
    place = masks / image.relative_to(images).with_suffix(".png")
    place = place.with_name(place.name.replace(*_CITYSCAPES))
    if not place.is_file():
        raise DataError(f"{image} has no mask: {place} does not exist")
    return place
