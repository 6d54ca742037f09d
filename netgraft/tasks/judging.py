"""How good a network is on a task: its quality with a standard error, and how far it agrees with a teacher.

`evaluate` and `agreement` always compute in float32, as the exported network does, on the task's device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from netgraft.tasks.device import moved, with_doubles
from netgraft.tasks.running import prepared, row_batches, running, training_rows
from netgraft.tasks.task import Split, SplitName, Task

_EVALUATION_BATCH = 256
_EVALUATION_VALUES = 1 << 22
"""Numbers that a batch for judging holds at most, or else a single example: whole pictures are large."""


@dataclass(frozen=True)
class Score:
    """A quality with its standard error, in the quality's unit, and the mean loss (see :func:`standard_error`)."""

    quality: float
    error: float
    loss: float


def evaluate(module: nn.Module, task: Task, split: SplitName) -> Score:
    """Judge `module` on a whole split, in eval mode and float32; its own modes are restored."""
    return evaluate_each(module, task, split)[0]


def evaluate_each(module: nn.Module, task: Task, split: SplitName) -> tuple[Score, Tensor]:
    """As :func:`evaluate`, and what was measured of each example [N] or [N, ...], in their order."""
    values: list[Tensor] = []
    losses: list[tuple[Tensor, int]] = []
    with torch.no_grad(), running(module, task.device, training=False):
        for batch in _judged_together(task.split(split).parts):
            outputs, measured = judge(module, task, batch)
            values.append(measured)
            losses.append((task.loss(outputs, moved(batch.targets, outputs.device)), len(batch)))
    value, of = torch.cat(values).cpu().double(), task.quality.of  # read at the end: until then nobody waits
    loss = sum(loss.item() * count for loss, count in losses) / len(value)
    error = standard_error(value, task.quality.span) if of is None else jackknife(value, of)
    return Score(quality=task.quality.over(value).item(), error=error, loss=loss), value


def judge(module: nn.Module, task: Task, batch: Split) -> tuple[Tensor, Tensor]:
    """The outputs of `module` for a batch, in eval mode and float32, and what the task's quality measures of each; both
    where the task is, or on the CPU where that cannot measure in float64.
    """
    with torch.no_grad(), running(module, task.device, training=False):
        outputs = module(prepared(task, moved(batch.inputs, task.device)))
        outputs = moved(outputs, with_doubles(task.device))
        return outputs, task.quality.measure(outputs, moved(batch.targets, outputs.device))


def standard_error(values: Tensor, span: float | None = None) -> float:
    """How far, in `values`' unit, the mean of another sample of as many examples [N] may lie; not how far another
    training may.

    The deviation between examples over the root of their number. For a proportion, whose two values lie `span` apart,
    it is half of Wilson's interval at one standard error ("Probable inference, the law of succession, and statistical
    inference", JASA 1927): nearly the same in the middle, and never 0, as no sample shows that an error cannot happen.
    Deviation: Wilson's interval lies around a share drawn a little towards one half; reported is the plain one.
    """
    count = len(values)
    variance = values.double().var(correction=0).item() / count
    if span is None:
        return math.sqrt(variance)
    return math.sqrt(variance + (span / (2 * count)) ** 2) / (1 + 1 / count)


def jackknife(values: Tensor, of: Callable[[Tensor], Tensor]) -> float:
    """As :func:`standard_error`, of what `of` makes of the mean of `values` [N, ...]: by leaving out one example after
    another (Quenouille; Tukey, "Bias and confidence in not-quite large samples", 1958). 0 for one example.
    """
    count = len(values)
    if count == 1:
        return 0.0
    left_out = of((values.sum(0) - values) / (count - 1))
    return math.sqrt((count - 1) * left_out.var(correction=0).item())


Answers = Sequence[tuple[Tensor, Tensor]]
"""What a teacher says on a few training batches: the rows of the training split of each, and its outputs."""


def answers(teacher: nn.Module, task: Task, *, batches: int, batch_size: int = 128, seed: int) -> Answers:
    """What `teacher` says on so many training batches, in eval mode, in float32: for many to be compared with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), running(teacher, task.device, training=False):
        return [
            (rows, teacher(prepared(task, training_rows(task, rows)[0])))
            for rows in islice(row_batches(len(task.train), batch_size, generator), batches)
        ]


def agreement(module: nn.Module, task: Task, answers: Answers) -> float:
    """Mean imitation loss of `module` against a teacher's `answers`: 0 when they agree, lower is better.

    A cheap check that needs no training and no targets, in eval mode, in float32, at temperature 1.
    """
    with torch.no_grad(), running(module, task.device, training=False):
        losses = [
            task.imitate(module(prepared(task, training_rows(task, rows)[0])), outputs, 1.0).item()
            for rows, outputs in answers
        ]
    return sum(losses) / len(losses)


def _judged_together(parts: Sequence[Split]) -> Iterator[Split]:
    """Batches of splits, in order."""
    for part in parts:
        size = max(1, min(_EVALUATION_BATCH, _EVALUATION_VALUES // part.inputs[0].numel()))
        for start in range(0, len(part), size):
            yield Split(part.inputs[start : start + size], part.targets[start : start + size])
