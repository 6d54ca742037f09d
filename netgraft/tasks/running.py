"""How a network is run on the examples of a task, in training and in judging alike: on the task's device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from netgraft.tasks.device import computing, moved
from netgraft.tasks.task import Task


def row_batches(examples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers, `batch_size` at a time and without end: one permutation of all examples after another."""
    rows = torch.empty(0, dtype=torch.int64)
    while True:
        while len(rows) < batch_size:
            rows = torch.cat([rows, torch.randperm(examples, generator=generator)])
        yield rows[:batch_size]
        rows = rows[batch_size:]


def training_rows(task: Task, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Training examples by their row numbers, as stored, and their targets, on the task's device."""
    inputs, targets = task.train.inputs, task.train.targets
    rows = moved(rows, inputs.device)
    return moved(inputs[rows], task.device), moved(targets[rows], task.device)


def prepared(task: Task, inputs: Tensor) -> Tensor:
    """A stored batch as the network takes it; images channels-last, the layout in which convolutions are fastest."""
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return task.prepare(inputs)


@contextmanager
def running(module: nn.Module, device: torch.device, *, training: bool) -> Iterator[None]:
    """A module on a device, in train or eval mode; afterwards it is where it was, and each of its parts in its mode."""
    before = [(part, part.training) for part in module.modules()]
    first = next(chain(module.parameters(), module.buffers()), None)
    home = device if first is None else first.device
    module.train(training)
    try:
        if home != device:
            module.to(device)
        with computing(device):
            yield
    finally:
        if home != device:
            module.to(home)
        for part, was_training in before:
            part.training = was_training
