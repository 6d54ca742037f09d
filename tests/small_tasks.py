"""Tasks and networks small enough to know the answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgraft.tasks import Split, Task, classification


def blobs(examples: int = 96) -> Task:
    """Three classes of 4x4 images, told apart by which channel is bright."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(examples) % 3
    inputs = torch.randn(examples, 3, 4, 4, generator=generator) * 0.3
    inputs[torch.arange(examples), targets] += 1
    split = Split(inputs, targets)
    return classification("blobs", split, split, split, prepare=Tensor.float)


def noisy(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator), targets


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(128, 3)
    )


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())
