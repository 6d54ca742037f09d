"""What trimming learns from data: the refit gives back what the channels that went had given, as far as others can."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contracts import child_of, outputs, sane_model

from netgraft.channels import ChannelGroup, channels, drop, repeat
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.ir import Batch, Builder, Graph, Model, TensorType
from netgraft.mutations.importance import Activations, Taylor, reads
from netgraft.mutations.trim import trim
from netgraft.recipes.refit import Moments, gradients, magnitudes, refit
from netgraft.tasks import Split, Task, classification, recalibrate


def network() -> Graph:
    """A stem, a block beside a shortcut, a strided convolution and two linear layers."""
    b = Builder()
    x = b.add("conv2d", b.input("x", TensorType((Batch(), 2, 8, 8))), out_channels=6, kernel=(3, 3), id="stem")
    x = b.add("relu", b.add("batch_norm", x, id="norm"))
    y = b.add("relu", b.add("conv2d", x, out_channels=8, kernel=(3, 3), padding=(1, 1), id="one"))
    y = b.add("conv2d", y, out_channels=6, kernel=(3, 3), padding=(1, 1), bias=False, id="two")
    x = b.add("add", x, y)
    x = b.add("conv2d", x, out_channels=4, kernel=(3, 3), stride=(2, 2), dilation=(2, 1), padding=(2, 1), id="down")
    x = b.add("linear", b.add("flatten", b.add("relu", x)), out_features=12, id="hidden")
    return b.build(b.add("linear", b.add("relu", x), out_features=3, id="head"))


@pytest.fixture(scope="module")
def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(400, 2, 8, 8, generator=generator)
    split = Split(images, images[:, 0, :4].flatten(1).sum(1).gt(0).long())
    return classification("signs", split, split, split, prepare=lambda x: x)


def trained(task: Task) -> Model:
    """A network whose batch-norm statistics are those of its data, as after training."""
    module = to_module(sane_model(network()))
    recalibrate(module, task, seed=0)
    return Model(network(), weights_of(module))


def group_of(graph: Graph, maker: str) -> ChannelGroup:
    return next(group for group in channels(graph).groups if maker in group.makers)


@pytest.mark.parametrize("maker", ["stem", "one", "down", "hidden"])
def test_a_refit_makes_up_for_channels_that_others_repeat(maker: str, task: Task) -> None:
    """Each channel is there twice; without its copy the layers that read it have to take twice as much of it."""
    model = trained(task)
    group = group_of(model.graph, maker)
    twice = child_of(model, repeat(model.graph, dict.fromkeys(group.units, 2)))
    doubled = group_of(twice.graph, maker)
    edit = drop(twice.graph, doubled.units[::2])
    again = refit(twice, edit, task, images=200, ridge=1e-9, seed=0)
    assert again.graph.digest == model.graph.digest
    x = [task.train.inputs[:50]]
    (wanted,), (lost,), (back,) = (outputs(m, x) for m in (twice, child_of(twice, edit), again))
    assert (lost - wanted).abs().max() > 0.1
    torch.testing.assert_close(back, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("maker", ["stem", "one", "down", "hidden"])
def test_moments_make_up_for_them_without_looking_again(maker: str, task: Task) -> None:
    model = trained(task)
    twice = child_of(model, repeat(model.graph, dict.fromkeys(group_of(model.graph, maker).units, 2)))
    edit = drop(twice.graph, group_of(twice.graph, maker).units[::2])
    again = Moments.of(twice, task, images=200, seed=0).refit(edit, ridge=1e-9)
    x = [task.train.inputs[:50]]
    (wanted,), (lost,), (back,) = (outputs(m, x) for m in (twice, child_of(twice, edit), again))
    assert (lost - wanted).abs().max() > 0.1
    torch.testing.assert_close(back, wanted, rtol=1e-2, atol=1e-2)


def test_a_refit_comes_nearer_to_the_parent(task: Task) -> None:
    model = trained(task)
    group = group_of(model.graph, "one")
    edit = trim(model.graph, group, reads(model.graph, group, model.weights), 5)
    assert edit is not None
    x = [task.train.inputs[:100]]
    (wanted,), (plain,), (fitted,) = (
        outputs(m, x) for m in (model, child_of(model, edit), refit(model, edit, task, images=300, seed=0))
    )
    assert (fitted - wanted).square().mean() < 0.7 * (plain - wanted).square().mean()


def test_a_refit_is_the_same_under_a_seed_and_leaves_the_parent_alone(task: Task) -> None:
    model = trained(task)
    before = {key: np.array(tensor) for key, tensor in model.weights.items()}
    edit = drop(model.graph, group_of(model.graph, "one").units[:3])
    one, other = (refit(model, edit, task, images=100, seed=3) for _ in range(2))
    assert all(np.array_equal(one.weights[key], other.weights[key]) for key in one.weights)
    assert all(np.array_equal(model.weights[key], tensor) for key, tensor in before.items())


def loss(model: Model, task: Task) -> float:
    with torch.no_grad():
        return float(task.loss(to_module(model).eval()(task.train.inputs), task.train.targets))


def test_gradients_say_how_the_loss_changes(task: Task) -> None:
    model = trained(task)
    found = gradients(model, task, images=400, seed=0)
    assert found.keys() == model.graph.trainable
    step = 1e-2
    down = {key: tensor - step * found[key] if key in found else tensor for key, tensor in model.weights.items()}
    expected = step * sum(float((g**2).sum()) for g in found.values())
    assert loss(model, task) - loss(Model(model.graph, down), task) == pytest.approx(expected, rel=0.3)


def test_importances_from_data_find_a_channel_that_is_dead(task: Task) -> None:
    model = trained(task)
    weights = {key: np.array(tensor) for key, tensor in model.weights.items()}
    weights["one.weight"][3], weights["one.bias"][3] = 0, -1  # never above zero
    model = Model(model.graph, weights)
    group = group_of(model.graph, "one")
    for importance in (
        Activations(magnitudes(model, task, images=200, seed=0)),
        Taylor(gradients(model, task, images=200, seed=0)),
    ):
        scores = importance(model.graph, group, model.weights)
        assert scores.argmin() == 3 and scores[3] == 0 and np.delete(scores, 3).min() > 0
    dead = child_of(model, drop(model.graph, [group.units[3]]))
    assert loss(dead, task) == pytest.approx(loss(model, task), rel=1e-4)
