"""Semantic segmentation: a class for every pixel, judged by how well the areas of the classes are met."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from netgraft.errors import DataError
from netgraft.tasks import shapes
from netgraft.tasks.device import moved
from netgraft.tasks.pictures import Pictures, decoded, decoded_mask, find, rgb, split
from netgraft.tasks.task import Quality, Split, Task, softened_divergence
from netgraft.tasks.vision import normalisation

VOID = 255
"""The target of pixels that belong to no class: they count nowhere."""


def segmentation(
    spec: str,
    input_shape: tuple[int, int, int],
    classes: int,
    first: int = 0,
    seed: int = 0,
    subset: int | None = None,
    normalize: str = "data",
) -> Task:
    """Pictures with masks, for a network that takes ``input_shape`` (C, H, W) and gives maps of ``classes`` channels.

    Pictures and masks are brought to the network's size. A mask holds class numbers from ``first`` on (ADE20K counts
    from 1); what is below it, or beyond the network's classes, is void. Judged by the intersection over union, summed
    over all pictures, the mean over the classes that occur (PASCAL VOC's: Everingham et al., IJCV 2015, section 4.2).

    ``spec`` is as for :func:`~netgraft.tasks.pictures.find`, with masks, or ``shapes``, which are generated. DataError
    for data that does not fit.
    """
    if input_shape[0] not in (1, 3):
        raise DataError(f"pictures have 1 or 3 channels, the network takes {input_shape[0]}")
    if spec == "shapes":
        splits, notes = _generated(input_shape, classes, seed, subset), [shapes.NOTE]
    else:
        parts, notes = split(find(spec, masked=True), seed, subset)
        splits = {name: _decoded(pictures, input_shape, classes, first) for name, pictures in parts.items()}
    if all((one.targets == VOID).all() for one in splits.values()):
        raise DataError(f"{spec}: no pixel of a mask has a class from {first} to {first + classes - 1}")
    _, height, width = input_shape
    prepare = normalisation(splits["train"].inputs, normalize)
    mean, std = (", ".join(f"{value / 255:.4f}" for value in values) for values in (prepare.mean, prepare.std))
    augment = CropAndMirror(max(1, height // 8))
    return Task(
        name=f"segmentation of {spec}",
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        loss=cross_entropy,
        quality=Quality("mIoU", "%", areas, of=intersection_over_union),
        prepare=prepare,
        imitate=imitation,
        augment=augment,
        draw=drawn,
        notes=(
            *notes,
            f"Pictures and masks were brought to {height} x {width}, whatever their aspect ratio.",
            f"Inputs are pixels from 0 to 1, less the mean {mean}, divided by {std}.",
            f"Training pictures are cropped at random after padding by {augment.padding} and mirrored.",
        ),
    )


@dataclass(frozen=True)
class CropAndMirror:
    """A random crop after padding, of a picture (black) and its mask (void) alike; half of them mirrored."""

    padding: int

    def __call__(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count = len(inputs)
        top, left = moved(torch.randint(2 * self.padding + 1, (2, count), generator=generator), inputs.device)
        mirrored = moved(torch.rand(count, generator=generator) < 0.5, inputs.device).view(-1, 1, 1, 1)
        made = []
        for tensor, filling in ((inputs, 0), (targets[:, None], VOID)):
            crops = shifted(tensor, self.padding, top, left, filling)
            made.append(torch.where(mirrored, crops.flip(3), crops))
        return made[0], made[1][:, 0]


def shifted(tensor: Tensor, padding: int, top: Tensor, left: Tensor, filling: int) -> Tensor:
    """Pictures [N, C, H, W] cut out of themselves with ``padding`` on all sides, from rows ``top`` and columns ``left``
    of it on.
    """
    count, _, height, width = tensor.shape
    padded = F.pad(tensor, (padding,) * 4, value=filling)
    return padded.unfold(2, height, 1).unfold(3, width, 1)[torch.arange(count, device=top.device), :, top, left]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over all pixels [N, H, W] that are not void; outputs [N, classes, h, w] are brought to their size."""
    wanted = targets.long()
    if (wanted == VOID).all():
        return outputs.sum() * 0
    return F.cross_entropy(_enlarged(outputs, wanted), wanted, ignore_index=VOID)


def areas(outputs: Tensor, targets: Tensor) -> Tensor:
    """For each picture and class [N, classes, 2]: how many pixels both have the class and are given it, and how many
    either. Void pixels do not count.
    """
    logits = _enlarged(outputs, targets)
    classes = logits.shape[1]
    wanted = targets.long()
    counted = wanted != VOID
    given = F.one_hot(logits.argmax(1), classes).bool() & counted[..., None]
    held = F.one_hot(wanted.masked_fill(~counted, 0), classes).bool() & counted[..., None]
    return torch.stack([(given & held).sum((1, 2)), (given | held).sum((1, 2))], 2)


def intersection_over_union(areas: Tensor) -> Tensor:
    """In percent, of :func:`areas` [..., classes, 2]: the mean over the classes of which there are any; 100 where there
    are none.
    """
    both, either = areas.double().unbind(-1)
    present = either > 0
    shares = torch.where(present, both / either.clamp_min(1e-12), torch.zeros_like(both)).sum(-1)
    return 100 * torch.where(present.any(-1), shares / present.sum(-1).clamp_min(1), torch.ones_like(shares))


def drawn(inputs: Tensor, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, and masks in :func:`class_colours`."""
    table = class_colours()
    wanted, given = (table[mask.long()].movedim(3, 1) for mask in (targets, _enlarged(outputs, targets).argmax(1)))
    return rgb(inputs), wanted, given


def class_colours() -> Tensor:
    """The colours in which PASCAL VOC shows its masks, uint8 [256, 3] by class number: the first class, mostly what is
    behind everything, is black, and void nearly white. The bits of a number go to red, green and blue in turn, the
    lowest ones becoming the highest.
    """
    numbers = torch.arange(VOID + 1)[:, None]
    bits = ((numbers >> (3 * place + torch.arange(3)) & 1) << (7 - place) for place in range(3))
    return sum(bits, torch.zeros(VOID + 1, 3, dtype=torch.int64)).to(torch.uint8)


def imitation(outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
    """The divergence of softened class probabilities from the teacher's, the mean over pixels."""
    classes = outputs.shape[1]
    student, teacher = (x.movedim(1, -1).reshape(-1, classes) for x in (outputs, teacher_outputs))
    return softened_divergence(student, teacher, temperature)


def _enlarged(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape[2:] == targets.shape[1:]:
        return outputs
    return F.interpolate(outputs, size=tuple(targets.shape[1:]), mode="bilinear")


def _generated(size: tuple[int, int, int], classes: int, seed: int, subset: int | None) -> dict[str, Split]:
    if classes <= len(shapes.FORMS):
        raise DataError(
            f"the shapes have {len(shapes.FORMS) + 1} classes, background included; the network has {classes}"
        )
    found = {}
    for number, (name, count) in enumerate(shapes.MADE.items()):
        made = min(count, subset or count) if name == "train" else count
        found[name] = Split(*shapes.scenes(made, size, 10 * seed + number))
    return found


def _decoded(pictures: Pictures, input_shape: tuple[int, int, int], classes: int, first: int) -> Split:
    channels, height, width = input_shape
    images = np.empty((len(pictures), height, width, channels), np.uint8)
    masks = np.empty((len(pictures), height, width), np.uint8)
    for row, (source, mask, place) in enumerate(zip(pictures.images, pictures.masks, pictures.places, strict=True)):
        pixels, classed = decoded(source, place, channels), decoded_mask(mask, place)
        if classed.size != (pixels.shape[1], pixels.shape[0]):
            raise DataError(f"{place}: the picture is {pixels.shape[1]} x {pixels.shape[0]}, its mask {classed.size}")
        image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        images[row] = resized.reshape(height, width, channels)
        masks[row] = _numbered(np.asarray(classed.resize((width, height), Image.Resampling.NEAREST)), classes, first)
    return Split(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(masks))


def _numbered(mask: npt.NDArray[np.uint8], classes: int, first: int) -> npt.NDArray[np.uint8]:
    """Class numbers from 0; void is what has none."""
    numbers = mask.astype(np.int64) - first
    return np.where((numbers < 0) | (numbers >= classes), VOID, numbers).astype(np.uint8)
