"""Reading what writes in place, into tensors and into parts of them that are seen from elsewhere."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import IMAGE, Function, assert_same, ops, randomised, read
from torch import Tensor, nn
from torch.nn import functional as F

from netgraft.convert.from_torch import from_module


def _twice(x: Tensor) -> Tensor:
    y = x * 1
    z = F.relu(y, inplace=True)
    y += z
    return y * z


def _clamped_view(x: Tensor) -> Tensor:
    y = (x * 2).view(x.shape[0], -1)
    y.clamp_(max=1)
    return y + 1


def _half(x: Tensor) -> Tensor:
    y = x * 1
    y[:, :2] *= 3
    return F.relu(y)


def _before_and_after(x: Tensor) -> Tensor:
    y = x * 1
    left = y[:, :2] + 1
    y.mul_(2)
    return torch.cat([left, y], 1)


def _mask(x: Tensor) -> Tensor:
    mask = torch.zeros(8, 8)
    mask[2:4, :] = 1
    mask[:, 0].fill_(0.5)
    return x * mask


@pytest.mark.parametrize("function", [_twice, _clamped_view, _half, _before_and_after, _mask])
def test_writing_in_place(function: Callable[[Tensor], Tensor]) -> None:
    module = Function(function)
    assert_same(module, read(module, torch.randn(IMAGE)), torch.randn(IMAGE))


def test_dropout_in_evaluation_is_the_tensor_itself() -> None:
    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 1
            z = F.dropout(y, 0.5, self.training)
            z += 1
            return y * 2 + z

    module = Written().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in training it is another tensor
        model = from_module(module, torch.randn(IMAGE))
    assert_same(module, model, torch.randn(IMAGE), training=False)


def test_dropout_in_place_of_a_view_is_dropout() -> None:
    """Nobody reads what the view looks into, as at the end of many classifiers."""
    pool, flat, last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    module = nn.Sequential(pool, flat, nn.Dropout(0.5, inplace=True), last)
    assert "dropout" in ops(read(module, torch.randn(IMAGE)))


def test_dropout_survives_a_write_into_part_of_a_tensor() -> None:
    module = nn.Sequential(randomised(nn.BatchNorm2d(4)), Function(_half), nn.Dropout(0.5))
    model = read(module, torch.randn(IMAGE))
    assert {"batch_norm", "dropout"} <= set(ops(model))
    assert_same(module, model, torch.randn(IMAGE))


def test_writes_without_gradients_show() -> None:
    def write(x: Tensor) -> Tensor:
        y = x * 2
        z = y[:, :2]
        with torch.no_grad():
            y[:, 0] = 0
            z.mul_(3)
        return y + 1

    module = Function(write)
    assert_same(module, read(module, torch.randn(IMAGE)), torch.randn(IMAGE))


class Written(nn.Module):
    """Draws views of a tensor and views of these, writes into some, and returns what all of them hold then."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        rng = random.Random(self.seed)
        tensors, copies = [x * 1], []
        for _ in range(rng.randint(3, 9)):
            chosen = rng.choice(tensors)
            if rng.random() < 0.5:
                tensors.append(_view(chosen, rng))
            elif rng.random() < 0.8:
                _write(chosen, rng)
            else:
                copies.append(chosen.clone())
        return tuple(y.flatten(1).sum(1) for y in (*copies, *tensors))


def _view(x: Tensor, rng: random.Random) -> Tensor:
    dim = rng.randrange(1, x.ndim)
    start = rng.randrange(x.shape[dim])
    stop = rng.randint(start + 1, x.shape[dim])
    views: list[Callable[[], Tensor]] = [
        lambda: x[(slice(None),) * dim + (slice(start, stop),)],
        lambda: x.narrow(dim, start, stop - start),
        lambda: x.select(dim, start) if x.ndim > 2 else x[:, start:],
        lambda: x.transpose(1, x.ndim - 1),
        lambda: x.unsqueeze(1),
        lambda: x.chunk(2, dim)[0],
        lambda: x.detach(),
    ]
    return rng.choice(views)()


def _write(x: Tensor, rng: random.Random) -> None:
    writes: list[Callable[[], object]] = [
        lambda: x.add_(1.5),
        lambda: x.mul_(x.clone().sigmoid()),
        lambda: x.copy_(x.clone().cos()),
        lambda: x[:, 0].fill_(0.25),
        lambda: x.relu_(),
    ]
    rng.choice(writes)()


@settings(max_examples=12)
@given(st.integers(0, 2**20))
def test_any_order_of_views_and_writes(seed: int) -> None:
    module, x = Written(seed), torch.randn(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = from_module(module, x)
    assert_same(module, model, x, training=False)


def test_a_write_into_a_part_needs_no_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for i in range(4):
            y[:, i] = x[:, i - 1] * 2 + y[:, i - 1]
        return y

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
    model = read(Function(write), torch.randn(IMAGE))
    assert ops(model).count("concat") == 4
    assert_same(Function(write), model, torch.randn(IMAGE))
