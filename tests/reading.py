"""Reading a PyTorch module in a test, and holding what comes back to it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module
from netgraft.ir import Model, Node


def randomised(module: nn.Module) -> nn.Module:
    """Statistics, scales and shifts as after training, so that every one of them shows in the output."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.75, 1.25) if name.endswith("weight") else parameter.data.uniform_(-0.25, 0.25)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return module


def tensors(returned: Any) -> Iterator[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(returned, Tensor):
        yield returned
    else:
        for part in returned.values() if isinstance(returned, dict) else returned:
            yield from tensors(part)


def run(module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    torch.manual_seed(1)  # the same dropout
    with torch.no_grad():
        return list(tensors(module(*(x.clone() for x in inputs))))


def assert_same(module: nn.Module, model: Model, *inputs: Tensor, training: bool = True) -> None:
    """Both compute the same: at three batch sizes in evaluation, and in training, statistics included."""
    back, original = to_module(model), copy.deepcopy(module)
    for batch in (1, 2, 5):
        cut = [torch.cat([x, x, x])[:batch] for x in inputs]
        for ours, theirs in zip(run(back.eval(), *cut), run(original.eval(), *cut), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    if training:
        for ours, theirs in zip(run(back.train(), *inputs), run(original.train(), *inputs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        after = original.state_dict()
        for key, value in back.state_dict().items():
            if key in after:
                torch.testing.assert_close(value, after[key], rtol=1e-5, atol=1e-5)


def read(module: nn.Module, *inputs: Tensor) -> Model:
    """The module as a model, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return from_module(module, inputs)


def ops(model: Model) -> list[str]:
    return [node.op for node in model.graph]


def only(model: Model, op: str) -> Node:
    (node,) = (node for node in model.graph if node.op == op)
    return node


class Function(nn.Module):
    """A module that calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(self.bn1(self.conv1(x))) + x + 1) * x


IMAGE = (2, 4, 8, 8)
