"""How a network is run on the examples of a task, in training and in judging alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from netgraft.tasks.task import Task


def row_batches(examples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers, `batch_size` at a time and without end: one permutation of all examples after another."""
    rows = torch.empty(0, dtype=torch.int64)
    while True:
        while len(rows) < batch_size:
            rows = torch.cat([rows, torch.randperm(examples, generator=generator)])
        yield rows[:batch_size]
        rows = rows[batch_size:]


def prepared(task: Task, inputs: Tensor) -> Tensor:
    """A stored batch as the network takes it; images channels-last, the layout in which convolutions are fastest."""
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return task.prepare(inputs)


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a module into train or eval mode, and each of its parts back into its own mode afterwards."""
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, was_training in before:
            part.training = was_training
