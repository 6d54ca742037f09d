"""Pictures out of worse ones: denoising and super-resolution, judged by signal-to-noise ratio or structural similarity.

Networks take pictures of one size, so the data are pieces of that size, and the quality is the mean over the pieces of
pictures that no network was trained on. Papers give means over whole pictures, which come out about the same, not
equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from netgraft.errors import DataError, OptionError
from netgraft.tasks.pictures import Pictures, Pixels, decoded, find, split, tiles
from netgraft.tasks.task import Quality, Split, Task

MOST = 40_000
"""Pieces that a training split holds at most: what is beyond is left out at random."""


def denoising(
    spec: str,
    input_shape: tuple[int, int, int],
    sigma: float = 25.0,
    quality: str = "psnr",
    seed: int = 0,
    subset: int | None = None,
) -> Task:
    """Gaussian noise of deviation ``sigma`` (of 255), to be taken off pictures of ``input_shape`` (C, H, W).

    Noise is drawn anew whenever a training picture is shown, once for validation and test, and is not clipped. Trained
    by the squared difference, as DnCNN (Zhang et al., TIP 2017). ``quality`` is ``psnr``, or ``ssim`` (of luminance).
    ``spec`` is as for :func:`~netgraft.tasks.pictures.find`. DataError and OptionError for what cannot work.
    """
    if not 0 < sigma <= 255:
        raise OptionError(f"noise needs a sigma between 0 and 255, not {sigma:g}")
    judged = Quality("PSNR", "dB", psnr) if _is_psnr(quality) else _similarity(input_shape, 0)
    noise = Noise(sigma)
    splits, notes = _pieces(spec, input_shape, 1, seed, subset)

    def noisy(name: str) -> Split:
        clean = splits[name].targets
        return Split(noise.on(clean, torch.Generator().manual_seed(seed + 1)), clean)

    return Task(
        name=f"denoising of {spec}, sigma {sigma:g}",
        train=noisy("train"),
        validation=noisy("validation"),
        test=noisy("test"),
        loss=lambda outputs, targets: F.mse_loss(outputs, targets / 255),
        quality=judged,
        prepare=_from_pixels,
        augment=noise,
        optimiser="adam",
        notes=(*notes, "Noise is drawn anew for every training picture; pictures are turned and mirrored at random."),
    )


def super_resolution(
    spec: str,
    input_shape: tuple[int, int, int],
    output_shape: tuple[int, int, int],
    quality: str = "psnr",
    seed: int = 0,
    subset: int | None = None,
) -> Task:
    """Pictures of ``output_shape`` (C, H, W) from ones that are smaller by a whole number, made by bicubic scaling.

    Trained by the absolute difference, as EDSR (Lim et al., CVPRW 2017), and judged on the luminance of ITU-R BT.601
    without a border as wide as the scale, as the field does, by ``quality``: ``psnr`` or ``ssim``. ``spec`` is as for
    :func:`~netgraft.tasks.pictures.find`.
    """
    (channels, height, width), (made, *large) = input_shape, output_shape
    scale = large[0] // height
    if made != channels or scale < 2 or large != [scale * height, scale * width]:
        raise DataError(
            f"super-resolution needs a network whose output is its input enlarged by a whole number; this one makes "
            f"{list(output_shape)} of {list(input_shape)}"
        )
    judged = (
        Quality("PSNR of Y", "dB", lambda outputs, targets: luminance_psnr(outputs, targets, scale))
        if _is_psnr(quality)
        else _similarity(output_shape, scale)
    )
    splits, notes = _pieces(spec, input_shape, scale, seed, subset)
    return Task(
        name=f"super-resolution of {spec}, x{scale}",
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        loss=lambda outputs, targets: F.l1_loss(outputs, targets / 255),
        quality=judged,
        prepare=_from_pixels,
        augment=turned,
        optimiser="adam",
        notes=(*notes, "Small pictures are made by bicubic scaling; they are turned and mirrored at random."),
    )


@dataclass(frozen=True)
class Noise:
    """Turned and mirrored pictures with new noise of deviation ``sigma``, in the unit of the pixels."""

    sigma: float

    def __call__(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        _, clean = turned(inputs, targets, generator)
        return self.on(clean, generator), clean

    def on(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The pictures with noise, rounded to whole numbers but not clipped: int16."""
        noise = torch.randn(clean.shape, generator=generator)
        return noise.mul_(self.sigma).add_(clean).round_().to(torch.int16)


def turned(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures [N, C, H, W] and what is to be made of them, mirrored both ways and, if square, transposed at random,
    both alike.
    """
    changes: list[Callable[[Tensor], Tensor]] = [lambda x: x.flip(2), lambda x: x.flip(3)]
    if inputs.shape[2] == inputs.shape[3]:
        changes.append(lambda x: x.transpose(2, 3))
    for change in changes:
        chosen = (torch.rand(len(inputs), generator=generator) < 0.5).view(-1, 1, 1, 1)
        inputs, targets = (torch.where(chosen, change(x), x) for x in (inputs, targets))
    return inputs, targets


def psnr(outputs: Tensor, targets: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each output (0 to 1, as 8-bit pixels) to its target (0 to 255), in dB: [N].

    100 dB where they are equal.
    """
    return _decibels(_as_pixels(outputs) - targets)


def luminance_psnr(outputs: Tensor, targets: Tensor, border: int) -> Tensor:
    """As :func:`psnr`, of the luminance of BT.601 (16 to 235) where there are three channels, without the border."""
    return _decibels(_luminance(_as_pixels(outputs), border) - _luminance(targets, border))


def luminance_similarity(outputs: Tensor, targets: Tensor, border: int) -> Tensor:
    """The structural similarity (Wang et al., TIP 2004, with its window of 11 and its constants) of each output to its
    target [N], in percent, of what :func:`luminance_psnr` looks at.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    given, wanted = _luminance(_as_pixels(outputs), border), _luminance(targets, border)
    found = similarity(given, wanted, data_range=255.0, reduction="none")
    assert isinstance(found, Tensor), "no full image was asked for"
    return 100 * found.reshape(len(outputs))


WINDOW = 11
"""Pixels that structural similarity looks at at once."""


def _is_psnr(quality: str) -> bool:
    if quality not in ("psnr", "ssim"):
        raise OptionError(f"pictures are judged by psnr or ssim, not {quality!r}")
    return quality == "psnr"


def _similarity(shape: tuple[int, int, int], border: int) -> Quality:
    if min(shape[1:]) - 2 * border < WINDOW:
        raise OptionError(
            f"ssim looks at {WINDOW} x {WINDOW} pixels at once; the network gives {shape[1]} x {shape[2]}"
        )
    return Quality("SSIM of Y", "%", lambda outputs, targets: luminance_similarity(outputs, targets, border))


def _luminance(pixels: Tensor, border: int) -> Tensor:
    """Y of BT.601 of pictures [N, C, H, W] from 0 to 255 in three channels, or their only channel; without a border."""
    pixels = pixels.float()
    if pixels.shape[1] == 3:
        weights = torch.tensor([65.481, 128.553, 24.966]) / 255
        pixels = torch.einsum("nchw,c->nhw", pixels, weights)[:, None] + 16
    return pixels[:, :, border : pixels.shape[2] - border, border : pixels.shape[3] - border]


def _decibels(wrong: Tensor) -> Tensor:
    squared = wrong.double().square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / squared.clamp_min(255**2 * 1e-10))


def _as_pixels(outputs: Tensor) -> Tensor:
    return outputs.clamp(0, 1).mul(255).round()


def _from_pixels(inputs: Tensor) -> Tensor:
    return inputs.float().div_(255)


def _pieces(
    spec: str, input_shape: tuple[int, int, int], scale: int, seed: int, subset: int | None
) -> tuple[dict[str, Split], list[str]]:
    """Splits of pieces: what a network of ``input_shape`` takes, and the same in the size that it gives."""
    channels, height, width = input_shape
    if channels not in (1, 3):
        raise DataError(f"pictures have 1 or 3 channels, the network takes {channels}")
    parts, notes = split(find(spec), seed, subset)
    splits = {}
    for name, pictures in parts.items():
        step = 2 if name == "train" else 1  # pieces for training overlap by half
        pairs = [
            pair
            for large in _scaled(pictures, channels, scale)
            for pair in _pairs(large, height, width, scale, (max(1, height // step), max(1, width // step)))
        ]
        if name == "train" and len(pairs) > MOST:
            pairs = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))[:MOST]]
            notes.append(f"Of the training pictures {MOST:,} pieces are used, chosen at random.")
        splits[name] = Split(*(_stacked([pair[i] for pair in pairs]) for i in (0, 1)))
    sizes = ", ".join(f"{len(splits[name]):,} {name}" for name in ("train", "validation", "test"))
    return splits, [*notes, f"Pictures are cut into pieces of {height} x {width} as the network takes them: {sizes}."]


def _scaled(pictures: Pictures, channels: int, scale: int) -> list[Pixels]:
    """The pictures, cropped to a multiple of the scale."""
    found = []
    for source, place in zip(pictures.images, pictures.places, strict=True):
        pixels = decoded(source, place, channels)
        height, width = (size - size % scale for size in pixels.shape[:2])
        if not height or not width:
            raise DataError(f"{place}: the picture is smaller than the scale {scale}")
        found.append(pixels[:height, :width])
    return found


def _pairs(large: Pixels, height: int, width: int, scale: int, step: tuple[int, int]) -> list[tuple[Pixels, Pixels]]:
    small = large
    if scale > 1:
        h, w, c = large.shape
        image = Image.fromarray(large[:, :, 0] if c == 1 else large)
        resized = np.asarray(image.resize((w // scale, h // scale), Image.Resampling.BICUBIC))
        small = resized.reshape(h // scale, w // scale, c)
    wide = tiles(large, scale * height, scale * width, (scale * step[0], scale * step[1]))
    return list(zip(tiles(small, height, width, step), wide, strict=True))


def _stacked(pieces: Sequence[Pixels]) -> Tensor:
    """uint8 [N, C, H, W] of pieces [H, W, C]."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(pieces).transpose(0, 3, 1, 2)))
