"""Pictures out of worse ones: denoising and super-resolution, judged by signal-to-noise ratio or structural similarity.

Networks are trained on pieces of pictures, of the size that they were read with. They are judged on whole pictures that
none was trained on, and the quality is the mean over pictures, as papers give it. Where heights and widths have to be
multiples of some number, as for U-Nets, pictures are continued by their edges, and what is made of the margin is cut
off. A network that takes pictures of its own size alone is judged on pieces of that size, side by side, and the task's
notes say so: these are other figures than papers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from netgraft.errors import DataError, OptionError
from netgraft.tasks.device import moved
from netgraft.tasks.pictures import Pictures, Pixels, continued, decoded, find, rgb, split, tiles
from netgraft.tasks.task import Mixed, Quality, Split, Task

MOST = 40_000
"""Pieces that a training split holds at most: what is beyond is left out at random."""


def denoising(
    spec: str,
    input_shape: tuple[int, int, int],
    sigma: float = 25.0,
    quality: str = "psnr",
    seed: int = 0,
    subset: int | None = None,
    step: int | None = None,
) -> Task:
    """Gaussian noise of deviation ``sigma`` (of 255), to be taken off pictures of ``input_shape`` (C, H, W).

    Noise is drawn anew whenever a training picture is shown, once for validation and test, and is not clipped. Trained
    by the squared difference, as DnCNN (Zhang et al., TIP 2017). ``quality`` is ``psnr`` (of all channels), or ``ssim``
    (of luminance). The network takes pictures whose height and width are multiples of ``step``; None: those of
    ``input_shape`` alone. ``spec`` is as for :func:`~netgraft.tasks.pictures.find`. DataError and OptionError for what
    cannot work.
    """
    if not 0 < sigma <= 255:
        raise OptionError(f"noise needs a sigma between 0 and 255, not {sigma:g}")
    margin = step or 1
    judged = _quality(quality, Quality("PSNR", "dB", psnr), 0, margin)
    clean = _examples(spec, input_shape, 1, step, seed, subset)
    if quality == "ssim":
        _check_window(clean, 0)
    noise = Noise(sigma)
    generator = torch.Generator().manual_seed(seed + 1)
    validation, test = (
        Mixed(tuple(_noisy(part, noise, generator) for part in each.parts)) for each in (clean.validation, clean.test)
    )
    return Task(
        name=f"denoising of {spec}, sigma {sigma:g}",
        train=_noisy(clean.train, noise, generator),
        validation=validation,
        test=test,
        loss=lambda outputs, targets: F.mse_loss(within(outputs, targets, margin), targets / 255),
        quality=judged,
        prepare=_from_pixels,
        augment=noise,
        draw=partial(drawn, scale=1),
        optimiser="adam",
        notes=(
            *clean.notes,
            "Noise is drawn anew for every training picture; pictures are turned and mirrored at random.",
        ),
    )


def super_resolution(
    spec: str,
    input_shape: tuple[int, int, int],
    output_shape: tuple[int, int, int],
    quality: str = "psnr",
    seed: int = 0,
    subset: int | None = None,
    step: int | None = None,
) -> Task:
    """Pictures of ``output_shape`` (C, H, W) from ones that are smaller by a whole number, made by bicubic scaling.

    Trained by the absolute difference, as EDSR (Lim et al., CVPRW 2017), and judged on the luminance of ITU-R BT.601
    without a border as wide as the scale, as the field does, by ``quality``: ``psnr`` or ``ssim``. ``spec``, ``step``
    and errors are as for :func:`denoising`.
    """
    (channels, height, width), (made, *large) = input_shape, output_shape
    scale = large[0] // height
    if made != channels or scale < 2 or large != [scale * height, scale * width]:
        raise DataError(
            f"super-resolution needs a network whose output is its input enlarged by a whole number; this one makes "
            f"{list(output_shape)} of {list(input_shape)}"
        )
    margin = scale * (step or 1)
    judged = _quality(quality, Quality("PSNR of Y", "dB", partial(luminance_psnr, border=scale)), scale, margin)
    found = _examples(spec, input_shape, scale, step, seed, subset)
    if quality == "ssim":
        _check_window(found, scale)
    return Task(
        name=f"super-resolution of {spec}, x{scale}",
        train=found.train,
        validation=found.validation,
        test=found.test,
        loss=lambda outputs, targets: F.l1_loss(within(outputs, targets, margin), targets / 255),
        quality=judged,
        prepare=_from_pixels,
        augment=turned,
        draw=partial(drawn, scale=scale),
        optimiser="adam",
        notes=(*found.notes, "Small pictures are made by bicubic scaling; they are turned and mirrored at random."),
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
        noise = moved(torch.randn(clean.shape, generator=generator), clean.device)
        return noise.mul_(self.sigma).add_(clean).round_().to(torch.int16)


def turned(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures [N, C, H, W] and what is to be made of them, mirrored both ways and, if square, transposed at random,
    both alike.
    """
    changes: list[Callable[[Tensor], Tensor]] = [lambda x: x.flip(2), lambda x: x.flip(3)]
    if inputs.shape[2] == inputs.shape[3]:
        changes.append(lambda x: x.transpose(2, 3))
    for change in changes:
        chosen = moved(torch.rand(len(inputs), generator=generator) < 0.5, inputs.device).view(-1, 1, 1, 1)
        inputs, targets = (torch.where(chosen, change(x), x) for x in (inputs, targets))
    return inputs, targets


def within(outputs: Tensor, targets: Tensor, step: int) -> Tensor:
    """The part of outputs [N, C, H, W] that targets are there for, the rest being margin up to a multiple of ``step``;
    DataError where a network gives pictures of another size.
    """
    wanted = [-(-size // step) * step for size in targets.shape[-2:]]
    if list(outputs.shape[-2:]) != wanted:
        given = " x ".join(map(str, outputs.shape[-2:]))
        raise DataError(f"the network gives pictures of {given} where {wanted[0]} x {wanted[1]} are wanted")
    return outputs[..., : targets.shape[-2], : targets.shape[-1]]


def drawn(inputs: Tensor, targets: Tensor, outputs: Tensor, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    """All as large as the targets: pixels of inputs become squares, and margins are cut off."""
    height, width = targets.shape[-2:]
    large = inputs.clamp(0, 255).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    given, made = (pixels[:, :, :height, :width] for pixels in (large, _as_pixels(outputs)))
    return rgb(given), rgb(targets), rgb(made)


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


def _quality(asked: str, ratio: Quality, border: int, step: int) -> Quality:
    """``ratio``, or the similarity, of what lies :func:`within` the pictures."""
    similarity = Quality("SSIM of Y", "%", partial(luminance_similarity, border=border))
    known = {"psnr": ratio, "ssim": similarity}
    if asked not in known:
        raise OptionError(f"pictures are judged by psnr or ssim, not {asked!r}")
    measure = known[asked].measure
    return replace(known[asked], measure=lambda outputs, targets: measure(within(outputs, targets, step), targets))


def _check_window(found: _Examples, border: int) -> None:
    for part in (*found.validation.parts, *found.test.parts):
        height, width = part.targets.shape[-2:]
        if min(height, width) - 2 * border < WINDOW:
            raise OptionError(
                f"ssim looks at {WINDOW} x {WINDOW} pixels at once, without a border of {border}; a picture that is "
                f"judged has {height} x {width}"
            )


def _luminance(pixels: Tensor, border: int) -> Tensor:
    """Y of BT.601 of pictures [N, C, H, W] from 0 to 255 in three channels, or their only channel; without a border."""
    pixels = pixels.float()
    if pixels.shape[1] == 3:
        weights = moved(torch.tensor([65.481, 128.553, 24.966]) / 255, pixels.device)
        pixels = torch.einsum("nchw,c->nhw", pixels, weights)[:, None] + 16
    return pixels[:, :, border : pixels.shape[2] - border, border : pixels.shape[3] - border]


def _decibels(wrong: Tensor) -> Tensor:
    squared = wrong.double().square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / squared.clamp_min(255**2 * 1e-10))


def _as_pixels(outputs: Tensor) -> Tensor:
    return outputs.clamp(0, 1).mul(255).round()


def _from_pixels(inputs: Tensor) -> Tensor:
    return inputs.float().div_(255)


@dataclass(frozen=True)
class _Examples:
    train: Split
    validation: Split | Mixed
    test: Split | Mixed
    notes: tuple[str, ...]


_Pair = tuple[Pixels, Pixels]
"""What a network takes, and what it is to give."""


def _examples(
    spec: str, input_shape: tuple[int, int, int], scale: int, step: int | None, seed: int, subset: int | None
) -> _Examples:
    """Pieces of ``input_shape`` to train on; whole pictures to judge by, or pieces if the network takes no others."""
    channels, height, width = input_shape
    if channels not in (1, 3):
        raise DataError(f"pictures have 1 or 3 channels, the network takes {channels}")
    parts, notes = split(find(spec), seed, subset)
    pairs = {name: [_pair(large, scale) for large in _scaled(part, channels, scale)] for name, part in parts.items()}
    half = (max(1, height // 2), max(1, width // 2))  # pieces for training overlap
    pieces = [piece for pair in pairs["train"] for piece in _pieces(pair, height, width, scale, half)]
    if len(pieces) > MOST:
        pieces = [pieces[i] for i in np.random.default_rng(seed).permutation(len(pieces))[:MOST]]
        notes.append(f"Of the training pictures {MOST:,} pieces are used, chosen at random.")
    judged: list[Split | Mixed] = []
    for name in ("validation", "test"):
        if step is None:
            cut = [piece for pair in pairs[name] for piece in _pieces(pair, height, width, scale, (height, width))]
            judged.append(_split(cut))
        else:
            judged.append(Mixed.of(*_tensors([(continued(small, step), large) for small, large in pairs[name]])))
    validation, test = judged
    sizes = f"{len(pieces):,} pieces of {height} x {width} to train on, as the network takes them"
    counts = f"{len(validation):,} for validation, {len(test):,} for the test"
    if step is None:
        said = (
            f"The network takes no other sizes, so it is judged on pieces, too: {counts}. Papers judge whole pictures."
        )
    else:
        said = f"It is judged on whole pictures: {counts}."
    return _Examples(_split(pieces), validation, test, (*notes, f"Pictures are cut into {sizes}.", said))


def _noisy(clean: Split, noise: Noise, generator: torch.Generator) -> Split:
    return Split(noise.on(clean.inputs, generator), clean.targets)


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


def _pair(large: Pixels, scale: int) -> _Pair:
    if scale == 1:
        return large, large
    h, w, c = large.shape
    image = Image.fromarray(large[:, :, 0] if c == 1 else large)
    resized = np.asarray(image.resize((w // scale, h // scale), Image.Resampling.BICUBIC))
    return resized.reshape(h // scale, w // scale, c), large


def _pieces(pair: _Pair, height: int, width: int, scale: int, step: tuple[int, int]) -> list[_Pair]:
    small, large = pair
    wide = tiles(large, scale * height, scale * width, (scale * step[0], scale * step[1]))
    return list(zip(tiles(small, height, width, step), wide, strict=True))


def _split(pieces: Sequence[_Pair]) -> Split:
    return Split(*map(torch.stack, _tensors(pieces)))


def _tensors(pairs: Sequence[_Pair]) -> tuple[list[Tensor], list[Tensor]]:
    """uint8 [C, H, W] of pictures [H, W, C]: what goes in, and what is to come out."""
    inputs, targets = ([torch.from_numpy(np.ascontiguousarray(p[i].transpose(2, 0, 1))) for p in pairs] for i in (0, 1))
    return inputs, targets
