"""What a network decides by the values of its tensors (``if x:``): heard while it runs, told while it is traced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Decisions(TorchFunctionMode):
    """Lets ``decide`` say whether a tensor is true."""

    def __init__(self, decide: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self._decide = decide

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._decide(args[0]) if func is Tensor.__bool__ else func(*args, **(kwargs or {}))


def decisions(module: nn.Module, args: Sequence[Tensor]) -> list[bool]:
    """What the module decides by values when it runs on ``args``, in order. Its buffers may change, as in any run."""
    heard: list[bool] = []

    def hear(x: Tensor) -> bool:
        heard.append(bool(x))
        return heard[-1]

    with torch.no_grad(), torch.random.fork_rng(devices=[]), Decisions(hear):
        module(*(x.clone() for x in args))
    return heard
