"""What a network computes in training alone: dropout, stochastic depth, statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from reading import IMAGE, Function, assert_same, only, ops, randomised, read, run
from torch import Tensor, nn
from torch.nn import functional as F

from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module


class Dropouts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.channels, self.inner = nn.Dropout2d(0.4), nn.Dropout(0.3, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.inner(self.channels(x) * 1.5), 0.2, self.training)
        return x * F.dropout(x, 0.1) if self.training else x * x


def test_dropout_is_kept_however_it_is_written() -> None:
    module = Dropouts()
    model = read(module, torch.randn(IMAGE))
    assert [node.attrs["p"] for node in model.graph if node.op.startswith("dropout")] == [0.4, 0.3, 0.2, 0.1]
    assert_same(module, model, torch.randn(IMAGE))


def test_dropout_that_is_always_on_stays_on() -> None:
    module = Function(lambda x: F.dropout(x, 0.5, True))
    # In training it looks like any other dropout.
    with pytest.warns(UserWarning, match="something else in training"):
        model = from_module(module, torch.randn(IMAGE))
    assert ops(model) == ["frozen"]
    back = to_module(model).eval()
    assert (run(back, torch.ones(IMAGE))[0] == 0).any()


def _by_rand(x: Tensor, keep: float, training: bool) -> Tensor:
    """As transformers, monai and efficientnet_pytorch write it."""
    if not training:
        return x
    mask = keep + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
    return x.div(keep) * mask.floor_()


def _by_bernoulli(x: Tensor, keep: float, training: bool) -> Tensor:
    """As torchvision and timm write it."""
    if not training:
        return x
    mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return x * mask.div_(keep)


@pytest.mark.parametrize("drop", [_by_rand, _by_bernoulli])
@pytest.mark.parametrize("keep", [0.9, 0.5])
def test_stochastic_depth_is_kept(drop: Callable[[Tensor, float, bool], Tensor], keep: float) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + drop(self.conv(x), keep, self.training)

    module = Residual()
    x = torch.randn(64, 4, 4, 4)
    model = read(module, x[:2])
    assert only(model, "drop_path").attrs["p"] == pytest.approx(1 - keep)
    assert "frozen" not in ops(model)
    assert_same(module, model, x)
    branch = to_module(model).train()(x) - x
    whole = module.conv(x) / keep
    kept = [i for i in range(len(x)) if branch[i].any()]
    assert 0.5 * keep < len(kept) / len(x) < min(1.5 * keep, 1)
    torch.testing.assert_close(branch[kept], whole[kept], rtol=1e-4, atol=1e-5)


def _drawn(x: Tensor, keep: float) -> Tensor:
    return torch.floor(keep + torch.rand((x.shape[0], 1, 1, 1)))


def _out_of_order(x: Tensor) -> Tensor:
    first, second = _drawn(x, 0.5), _drawn(x, 0.5)
    return x / 0.5 * second + F.relu(x) / 0.5 * first


def _together(x: Tensor) -> Tensor:
    mask = _drawn(x, 0.5)
    return x / 0.5 * mask + F.relu(x) / 0.5 * mask


@pytest.mark.parametrize("drop", [_out_of_order, _together])
def test_masks_that_other_draws_cannot_give_are_said(drop: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return drop(x) if self.training else x + F.relu(x)

    with pytest.warns(UserWarning, match="something else in training"):
        model = from_module(Net(), torch.randn(IMAGE))
    assert "drop_path" not in ops(model)


def test_dropout_of_nothing_is_dropped() -> None:
    assert ops(read(nn.Sequential(nn.Dropout(0.0), nn.ReLU()), torch.randn(IMAGE))) == ["relu"]


def test_attention_keeps_its_dropout() -> None:
    module = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.25, batch_first=True)
    model = read(module, torch.randn(2, 5, 8))
    assert only(model, "attention").attrs["p"] == 0.25
    assert "frozen" not in ops(model)
    assert_same(module, model, torch.randn(2, 5, 8))


@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
def test_batch_norm_keeps_its_momentum(momentum: float | None) -> None:
    module = randomised(nn.BatchNorm2d(4, momentum=momentum, eps=1e-3))
    model = read(module, torch.randn(IMAGE))
    norm = only(model, "batch_norm")
    assert (norm.attrs["momentum"], norm.attrs["eps"]) == (momentum, 1e-3)
    assert_same(module, model, torch.randn(IMAGE))


def test_code_that_only_training_runs_is_said() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if self.training else x

    with pytest.warns(UserWarning, match="Net computes something else in training \\(mul_scalar\\), which is left out"):
        from_module(Net(), torch.randn(IMAGE))


class Guarded(nn.Module):
    """Clamps in training what is not finite, as transformers' detection networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear, self.dropout = nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.linear(self.norm(x)))
        if self.training and not torch.isfinite(x).all():
            x = x.clamp(-1e30, 1e30)
        return F.dropout(x, 0.2, self.training)


def test_what_a_guard_does_not_change_in_training_is_kept_around_it() -> None:
    torch.manual_seed(0)
    module, x = randomised(Guarded()), torch.randn(8, 4)
    state = copy.deepcopy(module.state_dict())
    with pytest.warns(UserWarning, match=r"of Guarded in training, .* of tensors \(test_training.py, line \d+\)"):
        model = from_module(module, x)
    assert [node.attrs["p"] for node in model.graph if node.op == "dropout"] == [0.3, 0.2]
    assert_same(module, model, x)
    torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)


def test_a_decision_that_changes_what_training_computes_is_said() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if self.training and x.abs().sum() > 0 else x

    with pytest.warns(UserWarning) as said:
        model = from_module(Net(), torch.randn(IMAGE))
    assert [str(warning.message)[:40] for warning in said] == ["Net computes something else in training "]
    assert ops(model) == []


def test_outputs_that_only_training_has_are_said_and_the_rest_is_kept() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.extra, self.dropout = nn.Conv2d(4, 4, 1), nn.Linear(4, 2), nn.Dropout(0.3)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            y = self.dropout(self.conv(x))
            extra = self.extra(y.mean((2, 3)))
            return (y, extra, extra.square().mean()) if self.training else (y,)

    module, x = Net(), torch.randn(IMAGE)
    with pytest.warns(UserWarning, match="Net returns 2 more tensors in training"):
        model = from_module(module, x)
    assert ops(model) == ["conv2d", "dropout"] and set(model.weights) == {"conv.weight", "conv.bias"}
    torch.testing.assert_close(run(to_module(model).train(), x)[0], run(module.train(), x)[0])


def test_a_failure_is_placed_in_what_torch_called() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(torch.rand(())) if self.training else x

    with pytest.warns(UserWarning, match=r"in training could not be traced, .* \(test_training.py, line \d+\)"):
        from_module(Net(), torch.randn(IMAGE))
