"""Reading weights that a module computes from its parameters each time it runs, as weight standardisation does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reading import IMAGE, Function, assert_same, ops, read, run
from torch import Tensor, nn
from torch.nn import functional as F

from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module
from netgraft.errors import SourceError


@pytest.mark.filterwarnings("ignore:.*from its parameters each time:UserWarning")
def test_weights_that_a_module_computed_do_not_hinder_copies() -> None:
    module = nn.utils.weight_norm(nn.Linear(4, 3))
    assert not module.weight.is_leaf
    x = torch.randn(5, 4)
    try:
        model = from_module(module, x)
    except SourceError as error:
        assert "was assigned during export" in str(error), "it was copied, and torch refused it"
        pytest.skip("this torch (2.7, say) exports no layer that assigns its own weight; the refusal says so")
    assert ops(model) == ["linear"] and set(model.weights) == {"linear.weight", "bias"}
    torch.testing.assert_close(run(to_module(model).eval(), x)[0], module(x))


class Computed(nn.Module):
    """A linear layer with one of its tensors computed by a function of that, the input and the module."""

    def __init__(self, part: str, function: Callable[[Tensor, Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.part, self.function = part, function
        self.weight, self.bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        held = {"weight": self.weight, "bias": self.bias}
        return F.linear(x, **(held | {self.part: self.function(held[self.part], x, self.training)}))


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_weights_computed_from_parameters_are_weights(part: str) -> None:
    module = Computed(part, lambda w, x, training: w.tanh() - w.mean())
    with pytest.warns(UserWarning, match=f"Computed computes linear.{part} from its parameters each time"):
        model = from_module(module, torch.randn(5, 4))
    assert ops(model) == ["linear"] and set(model.weights) == {"weight", "bias"} - {part} | {f"linear.{part}"}
    assert model.graph.trainable == set(model.weights)
    for training in (False, True):
        ours, theirs = (run(m.train(training), torch.ones(5, 4))[0] for m in (to_module(model), module))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_layer_of_which_a_part_depends_on_the_input_is_no_frozen_node(part: str) -> None:
    module = Computed(part, lambda w, x, training: w * x.mean())
    model = read(module, torch.randn(5, 4))
    assert "frozen" not in ops(model)
    assert_same(module, model, torch.randn(5, 4))


def test_weights_computed_twice_are_one() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            flat = self.weight.reshape(1, self.out_channels, -1)
            weight = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
            return F.conv2d(x, weight, self.bias, padding=1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Standardised(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x).relu())

    module = Net()
    with pytest.warns(UserWarning, match="conv.weight from its parameters"):
        model = from_module(module, torch.randn(IMAGE))
    assert ops(model) == ["conv2d", "relu", "conv2d"] and set(model.weights) == {"conv.weight", "conv.bias"}
    torch.testing.assert_close(run(to_module(model).eval(), torch.ones(IMAGE)), run(module.eval(), torch.ones(IMAGE)))


def test_a_weight_that_is_used_as_it_is_too_is_not_folded() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(4, 4, 1), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(F.conv2d(x, self.conv.weight * 2, self.conv.bias))
            return F.linear(self.linear(y), self.linear.weight.t() * 0.5)

    module = Net()
    model = read(module, torch.randn(IMAGE))
    assert set(model.weights) == set(module.state_dict()), "what is tied stays tied"
    assert_same(module, model, torch.randn(IMAGE))


def test_parts_of_a_parameter_keep_its_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 8))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight[:3]) + F.linear(x, self.weight[3:])

    model = read(Net(), torch.randn(IMAGE))
    assert set(model.weights) == {"weight"} and "frozen" not in ops(model)


def test_long_and_branched_computations_of_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(8) + 0.1 * torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            w = self.weight
            for _ in range(12):  # Björck and Bowie, 1971: each step reads the last one four times
                w = 1.5 * w - 0.5 * (w @ w.t() @ w)
            for _ in range(400):
                w = w * 0.999
            return F.linear(x, w)

    module = Net()
    with pytest.warns(UserWarning, match="from its parameters"):
        model = from_module(module, torch.randn(IMAGE))
    assert ops(model) == ["linear"]
    torch.testing.assert_close(run(to_module(model).eval(), torch.ones(IMAGE)), run(module.eval(), torch.ones(IMAGE)))


def test_a_constant_is_what_it_was_when_it_was_used() -> None:
    def late(x: Tensor) -> Tensor:
        mask = torch.ones(8, 8)
        y = x * mask
        mask[0] = 0
        return y + x @ mask

    module = Function(late)
    assert_same(module, read(module, torch.randn(IMAGE)), torch.randn(IMAGE))


def test_weights_that_training_computes_otherwise_are_said() -> None:
    module = Computed("weight", lambda w, x, training: w * (3.0 if training else 2.0))
    with pytest.warns(UserWarning, match="Computed computes something else in training"):
        model = from_module(module, torch.randn(5, 4))
    torch.testing.assert_close(model.weights["linear.weight"], 2 * module.weight.detach().numpy())


def test_weights_that_depend_on_chance_are_drawn_each_time() -> None:
    module = Computed("weight", lambda w, x, training: w * torch.rand_like(w))
    model = read(module, torch.randn(5, 4))
    assert "linear" not in ops(model)
    assert_same(module, model, torch.randn(5, 4))


def test_kernels_that_depend_on_the_input_are_values() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel * x.mean())

    module = Net()
    model = read(module, torch.randn(IMAGE))
    assert [n.attrs["reason"] for n in model.graph if n.op == "frozen"] == ["its weight is computed from the input"]
    assert_same(module, model, torch.randn(IMAGE))
