"""Generated pictures to try segmentation and key points on, where there is no data at hand: simple shapes, drawn anew.

They show that a network learns and that a run works, and nothing about how good it is on photographs.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

Point = tuple[float, float]
Size = tuple[int, int, int]

MADE = {"train": 1200, "validation": 200, "test": 300}
"""How many pictures are drawn for each split."""
NOTE = "The pictures are generated: drawn shapes, not photographs."


def _turned(angle: float, radii: Sequence[float], corners: int) -> list[Point]:
    """Corners at even angles, at radii that repeat."""
    angles = [angle + 2 * math.pi * i / corners for i in range(corners)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


FORMS: tuple[Callable[[float], list[Point]], ...] = (
    lambda angle: _turned(angle, [1], 32),  # a disc
    lambda angle: _turned(angle, [1], 4),
    lambda angle: _turned(angle, [1], 3),
    lambda angle: _turned(angle, [1, 0.45], 10),  # a star
    lambda angle: _turned(angle, [1, 1, 0.3, 0.3], 12),  # something like a cross
)
"""The shapes, in units of their radius, turned by an angle."""


def scenes(count: int, size: Size, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 pictures [count, C, H, W] of one to three shapes each, and where they are [count, H, W]: 0 is background,
    and what is not, the number of one of :data:`FORMS`, from 1.
    """
    rng = np.random.default_rng(seed)
    channels, height, width = size
    images, masks = np.empty((count, height, width, channels), np.uint8), np.empty((count, height, width), np.uint8)
    for row in range(count):
        image, mask = _background(rng, height, width), Image.new("L", (width, height))
        for _ in range(rng.integers(1, 4)):
            form = int(rng.integers(len(FORMS)))
            radius = float(rng.uniform(0.15, 0.35)) * min(height, width)
            x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
            corners = [(x + radius * dx, y + radius * dy) for dx, dy in FORMS[form](float(rng.uniform(0, 2 * math.pi)))]
            ImageDraw.Draw(image).polygon(corners, fill=_colour(rng))
            ImageDraw.Draw(mask).polygon(corners, fill=form + 1)
        images[row], masks[row] = _noisy(rng, image, channels), np.asarray(mask)
    return _channels_first(images), torch.from_numpy(masks)


def figures(count: int, size: Size, corners: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 pictures [count, C, H, W] of one figure each, whose ``corners`` are told apart by their colours, and where
    these are [count, corners, 2]: x and y in pixels.
    """
    rng = np.random.default_rng(seed)
    channels, height, width = size
    images = np.empty((count, height, width, channels), np.uint8)
    points = np.empty((count, corners, 2), np.float32)
    side = min(height, width)
    dot = max(1.5, side / 24)
    for row in range(count):
        image = _background(rng, height, width)
        radii = rng.uniform(0.15, 0.38, corners) * side
        angles = float(rng.uniform(0, 2 * math.pi)) + 2 * math.pi * np.arange(corners) / corners
        middle = [float(rng.uniform(0.4, 0.6)) * length for length in (width, height)]
        points[row] = np.stack([middle[0] + radii * np.cos(angles), middle[1] + radii * np.sin(angles)], 1)
        drawn = [(float(x), float(y)) for x, y in points[row]]
        ImageDraw.Draw(image).polygon(drawn, fill=_colour(rng))
        for number, (x, y) in enumerate(drawn):
            ImageDraw.Draw(image).ellipse((x - dot, y - dot, x + dot, y + dot), fill=_marked(number, corners))
        images[row] = _noisy(rng, image, channels)
    return _channels_first(images), torch.from_numpy(points)


def _background(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """One colour that passes into another from top to bottom."""
    first, second = (np.array(_colour(rng), np.float64) for _ in range(2))
    shade = np.linspace(0, 1, height)[:, None, None]
    pixels = np.broadcast_to(first * (1 - shade) + second * shade, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(40, 216, 3).tolist()
    return red, green, blue


def _marked(number: int, of: int) -> tuple[int, int, int]:
    """A colour of its own, whose brightness is, too: networks may take one channel."""
    level = 0.4 + 0.6 * number / of
    red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(number / of, 1, level))
    return red, green, blue


def _noisy(rng: np.random.Generator, image: Image.Image, channels: int) -> npt.NDArray[np.uint8]:
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float64)
    pixels = pixels.reshape(image.height, image.width, channels)
    return (pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)


def _channels_first(images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
