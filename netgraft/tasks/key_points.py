"""Key points: where each of several points of a person, or of a thing, is in its picture, by a heat map for each.

The top-down way of Xiao, Wu and Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018, sections 2
and 3: a picture of one person, cut out by its box; a Gaussian around each point is what the network is to give.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from netgraft.errors import DataError, OptionError
from netgraft.tasks import shapes
from netgraft.tasks.device import moved
from netgraft.tasks.images import SPELLINGS
from netgraft.tasks.pictures import colours, decoded, rgb, split
from netgraft.tasks.segmentation import shifted
from netgraft.tasks.task import Quality, Split, Task
from netgraft.tasks.vision import normalisation

MARGIN = 1.25
"""How much larger than a person's box the picture is that is cut out."""
MOST = 20_000
"""Persons that a training split holds at most: what is beyond is left out at random."""
DRAWN = 160
"""Pixels that a small picture is enlarged to at most where points are drawn on it."""
_ANNOTATIONS = "annotations/*keypoints*{}*.json"


def key_points(
    spec: str,
    input_shape: tuple[int, int, int],
    maps: int,
    alpha: float = 0.1,
    seed: int = 0,
    subset: int | None = None,
    normalize: str = "data",
) -> Task:
    """Persons and where their points are, for a network that takes ``input_shape`` (C, H, W) and gives ``maps``.

    There is a map for each point, or several times as many maps, of which the last are the answer and all are trained
    (a stack of hourglasses; Newell et al., ECCV 2016, section 3.3).

    ``spec`` is a folder as COCO's: ``annotations/person_keypoints_train2017.json`` and so on, with the pictures in
    ``train2017`` or ``images/train2017``; or ``shapes``, which are generated. Judged by PCK, the share of all points to
    be seen that were found within ``alpha`` times the longer side of the person's box (Yang & Ramanan, TPAMI 2013,
    section 5). DataError and OptionError for what does not fit.
    """
    if input_shape[0] not in (1, 3):
        raise DataError(f"pictures have 1 or 3 channels, the network takes {input_shape[0]}")
    if not 0 < alpha <= 1:
        raise OptionError(f"alpha is a share of a person's size, above 0 and at most 1, not {alpha:g}")
    if spec == "shapes":
        found, pairs, notes = _generated(input_shape, maps, seed, subset), list(range(maps)), [shapes.NOTE]
    else:
        found, pairs, notes = _of_coco(Path(spec), input_shape, maps, seed, subset)
    for _, targets in found.values():
        targets[:, :, 3] *= alpha
    splits = {name: Split(*both) for name, both in found.items()}
    _, height, width = input_shape
    prepare = normalisation(splits["train"].inputs, normalize)
    augment = MoveAndMirror(max(1, height // 16), pairs)
    return Task(
        name=f"key points of {spec}",
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        loss=partial(map_difference, size=(height, width)),
        quality=Quality(f"PCK@{alpha:g}", "%", partial(found_points, size=(height, width)), of=share),
        prepare=prepare,
        augment=augment,
        draw=drawn,
        optimiser="adam",
        notes=(*notes, f"Training pictures are moved by up to {augment.padding} pixels and mirrored at random."),
    )


@dataclass(frozen=True)
class MoveAndMirror:
    """Pictures moved by up to ``padding`` pixels each way, and half of them mirrored, with their points. ``pairs`` has
    for each point the one that it is in a mirror: a left hand is a right one there.
    """

    padding: int
    pairs: Sequence[int]

    def __call__(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count, _, height, width = inputs.shape
        top, left = moved(torch.randint(2 * self.padding + 1, (2, count), generator=generator), inputs.device)
        mirrored = moved(torch.rand(count, generator=generator) < 0.5, inputs.device)
        cut = shifted(inputs, self.padding, top, left, 0)
        images = torch.where(mirrored.view(-1, 1, 1, 1), cut.flip(3), cut)
        targets = targets.clone()
        targets[:, :, 0] += (self.padding - left)[:, None]
        targets[:, :, 1] += (self.padding - top)[:, None]
        other = targets[:, moved(torch.tensor(self.pairs), targets.device)]
        other[:, :, 0] = width - other[:, :, 0]
        targets = torch.where(mirrored.view(-1, 1, 1), other, targets)
        inside = (targets[:, :, :2] >= 0).all(2) & (targets[:, :, 0] < width) & (targets[:, :, 1] < height)
        targets[:, :, 2] *= inside
        return images, targets


def map_difference(outputs: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean squared difference of maps [N, k * points, h, w] from Gaussians around the targets, over what can be
    seen.

    Targets [N, points, 4] are x and y in pixels of the input, which has ``size``, 1 for what can be seen, and how far
    away a guess is right. The Gaussians' deviation is a 32nd of the map's height, as 2 of 64 in the paper.
    """
    height, width = outputs.shape[2:]
    y = (torch.arange(height, device=targets.device) + 0.5) * size[0] / height
    x = (torch.arange(width, device=targets.device) + 0.5) * size[1] / width
    deviation = max(1.0, height / 32) * size[0] / height
    along = [
        torch.exp(-((places - targets[:, :, i, None]) ** 2) / (2 * deviation**2)) for i, places in ((1, y), (0, x))
    ]
    wanted = along[0][:, :, :, None] * along[1][:, :, None, :]
    seen = targets[:, :, 2, None, None]
    stacked = outputs.reshape(len(outputs), -1, targets.shape[1], height, width)
    wrong = ((stacked - wanted[:, None]) ** 2 * seen[:, None]).sum()
    return wrong / (seen.sum() * stacked.shape[1] * height * width).clamp_min(1)


def found_points(outputs: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    """For each picture how many points were found and how many can be seen [N, 2]; see :func:`map_difference`."""
    x, y = _highest(outputs, targets.shape[1], size)
    near = torch.hypot(x - targets[:, :, 0], y - targets[:, :, 1]) <= targets[:, :, 3]
    seen = targets[:, :, 2] > 0
    return torch.stack([(near & seen).sum(1), seen.sum(1)], 1)


def drawn(inputs: Tensor, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures; and what is wanted and what is given as dots on a darker one, those of one point in one colour. What
    cannot be seen is left out of both.
    """
    size = (inputs.shape[2], inputs.shape[3])
    factor = max(1, DRAWN // max(size))
    large = rgb(inputs).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    seen, x, y = targets[:, :, 2] > 0, *_highest(outputs, targets.shape[1], size)
    wanted, given = (_dotted(large, places * factor, seen) for places in (targets[:, :, :2], torch.stack([x, y], 2)))
    return large, wanted, given


def _dotted(pictures: Tensor, places: Tensor, seen: Tensor) -> Tensor:
    made = []
    for picture, points, there in zip(pictures, places.tolist(), seen.tolist(), strict=True):
        image = Image.fromarray((picture // 2).permute(1, 2, 0).contiguous().numpy())
        radius = max(2.0, max(image.size) / 40)
        for (x, y), visible, colour in zip(points, there, colours(len(points)), strict=True):
            if visible:
                box = (x - radius, y - radius, x + radius, y + radius)
                ImageDraw.Draw(image).ellipse(box, fill=colour, outline="white")
        made.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(made)


def _highest(outputs: Tensor, points: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the last maps are highest: x and y [N, points] in pixels of the input."""
    height, width = outputs.shape[2:]
    at = outputs[:, -points:].flatten(2).argmax(2)
    return (at % width + 0.5) * size[1] / width, (at // width + 0.5) * size[0] / height


def share(found: Tensor) -> Tensor:
    """Percent of what can be seen, of [..., 2] as :func:`found_points` gives."""
    return 100 * found[..., 0] / found[..., 1].clamp_min(1e-12)


Pairs = dict[str, tuple[Tensor, Tensor]]


def _generated(size: tuple[int, int, int], points: int, seed: int, subset: int | None) -> Pairs:
    found = {}
    for number, (name, count) in enumerate(shapes.MADE.items()):
        made = min(count, subset or count) if name == "train" else count
        images, places = shapes.figures(made, size, points, 10 * seed + number)
        reach = (places.amax(1) - places.amin(1)).amax(1)
        rest = torch.stack([torch.ones(made, points), reach[:, None].expand(made, points)], 2)
        found[name] = images, torch.cat([places, rest], 2)
    return found


@dataclass(frozen=True)
class Person:
    """The box (x, y, width, height) and the key points (x, y, how visible) in pixels of a picture."""

    box: tuple[float, float, float, float]
    points: Sequence[float]


@dataclass(frozen=True)
class People:
    """Pictures and who is in each."""

    images: Sequence[Path]
    persons: Sequence[Sequence[Person]]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int]) -> People:
        """The pictures of these rows, in this order."""
        return People([self.images[row] for row in rows], [self.persons[row] for row in rows])


def _of_coco(
    folder: Path, size: tuple[int, int, int], maps: int, seed: int, subset: int | None
) -> tuple[Pairs, list[int], list[str]]:
    people: dict[str, People] = {}
    names: list[str] = []
    for name, spellings in SPELLINGS.items():
        for file in [file for spelling in spellings for file in sorted(folder.glob(_ANNOTATIONS.format(spelling)))][:1]:
            people[name], names = _read(file, folder, maps)
    if "train" not in people:
        raise DataError(
            f"{folder} holds no {_ANNOTATIONS.format('train')}; key points are a folder as COCO's, or 'shapes'"
        )
    parts, notes = split(people, seed, subset)
    found = {}
    for name, part in parts.items():
        everyone = [
            (path, person) for path, persons in zip(part.images, part.persons, strict=True) for person in persons
        ]
        if name == "train" and len(everyone) > MOST:
            chosen = np.random.default_rng(seed).permutation(len(everyone))[:MOST]
            everyone = [everyone[i] for i in sorted(chosen.tolist())]
            notes.append(f"Of the training pictures {MOST:,} persons are used, chosen at random.")
        if not everyone:
            raise DataError(f"{folder}: nobody in the {name} split has key points")
        found[name] = _cut_out(everyone, size)
    points = found["train"][1].shape[1]
    names = names if len(names) == points else [str(i) for i in range(points)]
    mirrored = [_mirrored(name) for name in names]
    return found, [names.index(name) if name in names else i for i, name in enumerate(mirrored)], notes


def _read(file: Path, folder: Path, maps: int) -> tuple[People, list[str]]:
    """The persons of an annotation file who have key points, by picture, and the points' names."""
    try:
        data: dict[str, Any] = json.loads(file.read_text())
        stem = file.stem.rpartition("_")[2]
        places = [place for place in (folder / stem, folder / "images" / stem, folder / "images") if place.is_dir()]
        if not places:
            raise DataError(f"{file}: there is no folder {folder / stem} with its pictures")
        paths = {image["id"]: places[0] / Path(image["file_name"]).name for image in data["images"]}
        by_image: dict[Any, list[Person]] = {}
        for one in data["annotations"]:
            told = one.get("keypoints", ())
            if any(told[2::3]) and not one.get("iscrowd", 0) and min(one["bbox"][2:]) > 1:
                if 3 * maps % len(told):
                    raise DataError(f"{file}: a person has {len(told) // 3} key points, the network {maps} maps")
                x, y, width, height = map(float, one["bbox"])
                by_image.setdefault(one["image_id"], []).append(Person((x, y, width, height), list(map(float, told))))
        names = next((list(kind["keypoints"]) for kind in data.get("categories", ()) if "keypoints" in kind), [])
        ids = sorted(by_image)
        return People([paths[id] for id in ids], [by_image[id] for id in ids]), names
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is no annotation file as COCO's: {type(error).__name__} {error}") from None


def _mirrored(name: str) -> str:
    for one, other in (("left", "right"), ("right", "left")):
        if one in name:
            return name.replace(one, other)
    return name


def _cut_out(everyone: Sequence[tuple[Path, Person]], size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """A picture of each person, and its targets with the person's size for how far away a guess is right."""
    channels, height, width = size
    images = np.empty((len(everyone), height, width, channels), np.uint8)
    targets = np.empty((len(everyone), len(everyone[0][1].points) // 3, 4), np.float32)
    for row, (path, person) in enumerate(everyone):
        x, y, w, h = person.box
        wide = MARGIN * max(w, h * width / height)
        tall = wide * height / width
        left, top = x + w / 2 - wide / 2, y + h / 2 - tall / 2
        pixels = decoded(path, str(path), channels)
        image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        # What lies beyond the picture is black.
        outer = (floor(left), floor(top), ceil(left + wide), ceil(top + tall))
        inner = (left - outer[0], top - outer[1], left - outer[0] + wide, top - outer[1] + tall)
        cut = image.crop(outer).resize((width, height), Image.Resampling.BILINEAR, box=inner)
        images[row] = np.asarray(cut).reshape(height, width, channels)
        told = np.array(person.points).reshape(-1, 3)
        places = (told[:, :2] - (left, top)) * (width / wide)
        inside = (places >= 0).all(1) & (places < (width, height)).all(1)
        targets[row, :, :2] = places
        targets[row, :, 2] = (told[:, 2] > 0) & inside
        targets[row, :, 3] = max(w, h) * width / wide
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(targets)
