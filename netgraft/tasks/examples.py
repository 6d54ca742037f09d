"""A few examples of a task to look at: what goes in, what is to come out, and what a network makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from netgraft.errors import DataError
from netgraft.tasks.judging import judge
from netgraft.tasks.task import Split, SplitName, Task

COUNT = 3
"""How many examples are looked at."""
SIDE = 160
"""Pixels that a picture has at most either way: of a larger one the middle is shown, a small one is enlarged."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Example:
    """The middle of an example, uint8 [H, W, 3] each, and the quality of the output on the whole of it."""

    input: Pixels
    target: Pixels
    output: Pixels
    quality: float


def examples(module: nn.Module, task: Task, split: SplitName = "test", count: int = COUNT) -> list[Example]:
    """What ``module`` makes of ``count`` examples of a split, in eval mode and float32; none where the task does not
    say how they look.

    Which ones depends on nothing but how many there are: they lie evenly spaced, because neighbours are often alike
    (the frames of a film). DataError where the task's ``draw`` gives something else than it should.
    """
    if task.draw is None:
        return []
    found = []
    for one in _spread(task, split, count):
        outputs, values = judge(module, task, one)
        drawn = _checked(task, task.draw(one.inputs.cpu(), one.targets.cpu(), outputs.cpu()))
        given, wanted, made = map(_middle, drawn)
        found.append(Example(given, wanted, made, task.quality.over(values.cpu()).item()))
    return found


def png(pixels: Pixels) -> bytes:
    """Pixels [H, W, 3] as a file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png", optimize=True)
    return file.getvalue()


def _spread(task: Task, split: SplitName, count: int) -> list[Split]:
    parts = task.split(split).parts
    rows = [(part, row) for part in parts for row in range(len(part))]
    chosen = [rows[i * len(rows) // count] for i in range(count)] if count < len(rows) else rows
    return [Split(part.inputs[row : row + 1], part.targets[row : row + 1]) for part, row in chosen]


def _checked(task: Task, drawn: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    kinds = [f"{str(picture.dtype).removeprefix('torch.')} {list(picture.shape)}" for picture in drawn]
    first = drawn[0]
    if len(set(kinds)) > 1 or first.dtype != torch.uint8 or first.ndim != 4 or first.shape[:2] != (1, 3):
        raise DataError(
            f"draw of the task {task.name} must give input, target and output as uint8 [N, 3, H, W] of one size each, "
            f"not {', '.join(kinds)}"
        )
    return drawn


def _middle(picture: Tensor) -> Pixels:
    """[H, W, 3] of [1, 3, H, W]."""
    height, width = picture.shape[2:]
    top, left = (max(0, (size - SIDE) // 2) for size in (height, width))
    cut = picture[0, :, top : top + SIDE, left : left + SIDE]
    factor = max(1, SIDE // max(cut.shape[1:]))
    large = cut.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return np.ascontiguousarray(large.permute(1, 2, 0).numpy())
