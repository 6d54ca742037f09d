"""Imitation: what is new in a child is found by its graph alone, and learns to give what stood in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import sane_model
from torch import Tensor, nn

from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.costs.analytic import flops
from netgraft.ir import Batch, Builder, Edit, Graph, Model, Region, TensorType, Value, apply, inherit
from netgraft.mutations.trim import Trim
from netgraft.recipes.imitation import Imitation, imitate, new_part
from netgraft.tasks import Split, Task, classification, recalibrate


def network() -> Graph:
    """A stem, two blocks in a row, the first beside a shortcut, and a head."""
    b = Builder()
    x = b.add("conv2d", b.input("x", TensorType((Batch(), 2, 8, 8))), out_channels=8, kernel=(3, 3), id="stem")
    x = b.add("relu", b.add("batch_norm", x, id="norm"), id="relu")
    y = b.add("relu", b.add("conv2d", x, out_channels=8, kernel=(3, 3), padding=(1, 1), id="one"), id="between")
    y = b.add("conv2d", y, out_channels=8, kernel=(3, 3), padding=(1, 1), id="two")
    x = b.add("add", x, y, id="add")
    x = b.add("relu", b.add("conv2d", x, out_channels=6, kernel=(3, 3), stride=(2, 2), id="down"), id="low")
    return b.build(b.add("linear", b.add("flatten", x, id="flat"), out_features=3, id="head"))


def replaced(graph: Graph, ids: list[str], kernel: int, out: int) -> tuple[Graph, Edit]:
    """The graph with a chain of nodes replaced by one convolution, and the edit."""
    region = Region.of(ids)
    signature = region.signature(graph)
    b = Builder()
    stride = signature.inputs[0].concrete()[2] // signature.outputs[0].concrete()[2]
    x = b.input("in0", signature.inputs[0])
    y = b.add("conv2d", x, out_channels=out, kernel=(kernel, kernel), padding=(kernel // 2,) * 2, stride=(stride,) * 2)
    edit = Edit(region, b.build(y))
    return apply(graph, edit), edit


def child_of(parent: Model, edit: Edit) -> Model:
    weights, _ = inherit(parent.graph, edit, parent.weights, np.random.default_rng(0))
    return Model(apply(parent.graph, edit), weights)


@pytest.fixture(scope="module")
def task() -> Task:
    images = torch.randn(300, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.zeros(300, dtype=torch.int64))
    return classification("noise", split, split, split, prepare=lambda x: x)


def test_nothing_new_in_the_same_network() -> None:
    assert new_part(network(), network()) is None


def test_what_replaces_a_block_has_its_ends() -> None:
    graph = network()
    child, _ = replaced(graph, ["one", "between", "two"], 1, 8)
    part = new_part(graph, child)
    assert part is not None
    assert [node.op for node in part.graph] == ["conv2d"]
    assert part.given == (Value("relu"),) and part.wanted == (Value("two"),)


def test_two_changes_are_taught_apart() -> None:
    graph = network()
    once, _ = replaced(graph, ["one", "between", "two"], 1, 8)
    b = Builder()
    x = b.input("in0", graph.types[Value("flat")])
    y = b.add("linear", b.add("relu", b.add("linear", x, out_features=5)), out_features=3)
    twice = apply(once, Edit(Region.of(["head"]), b.build(y)))
    part = new_part(graph, twice)
    assert part is not None and sorted(node.op for node in part.graph) == ["conv2d", "linear", "linear", "relu"]
    assert set(part.given) == {Value("relu"), Value("flat")}, "the second reads what the parent gave, not the first"
    assert set(part.wanted) == {Value("two"), Value("head")}


def test_narrower_channels_are_new_as_far_as_they_reach() -> None:
    parent = sane_model(network())
    edits = Trim().edits(parent.graph, parent.weights, np.random.default_rng(0))
    edit = next(edit for edit in edits if "one" in edit.region.nodes and "two" in edit.region.nodes)
    part = new_part(parent.graph, apply(parent.graph, edit))
    assert part is not None and {"one", "two"} <= part.graph.position.keys()
    assert Value("two") in part.wanted and None not in part.wanted


def test_imitation_brings_a_child_closer_and_leaves_the_rest_alone(task: Task) -> None:
    module = to_module(sane_model(network()))
    recalibrate(module, task, seed=0)
    parent = Model(network(), weights_of(module))
    _, edit = replaced(parent.graph, ["one", "between", "two"], 3, 8)
    child = child_of(parent, edit)
    taught = imitate(parent, child, task, steps=100, largest=1.0, seed=1).model
    x = task.train.inputs

    def off(model: Model) -> float:
        with torch.no_grad():
            ours, theirs = (to_module(m).eval()(x) for m in (model, parent))
        return float((ours - theirs).square().mean() / theirs.var())

    assert off(taught) < 0.6 * off(child)
    new = set(edit.replacement.weight_types)
    changed = {key for key in child.weights if not np.array_equal(child.weights[key], taught.weights[key])}
    assert changed & new
    assert changed - new <= {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    again = imitate(parent, child, task, steps=100, largest=1.0, seed=1).model
    assert all(np.array_equal(again.weights[key], taught.weights[key]) for key in taught.weights)


def test_what_has_no_weights_or_diverges_stays_as_it_is(task: Task) -> None:
    parent = sane_model(network())
    b = Builder()
    y = b.add("relu6", b.input("in0", parent.graph.types[Value("one")]))
    child = child_of(parent, Edit(Region.of(["between"]), b.build(y)))
    assert imitate(parent, child, task, steps=5, seed=0) == Imitation(child, 0.0)
    _, edit = replaced(parent.graph, ["one", "between", "two"], 3, 8)
    child = child_of(parent, edit)
    key = next(key for key in edit.replacement.weight_types if key.endswith("weight"))
    broken = replace(child, weights={**child.weights, key: child.weights[key] * np.float32("nan")})
    assert imitate(parent, broken, task, steps=5, seed=0) == Imitation(broken, 0.0)


def test_imitation_counts_as_the_part_of_an_epoch_that_it_is(task: Task) -> None:
    """Of 300 examples ten steps show 640, to a part of the network; memory for fewer images makes batches smaller."""
    parent = sane_model(network())
    _, edit = replaced(parent.graph, ["one", "between", "two"], 3, 8)
    child = child_of(parent, edit)
    share = flops(edit.replacement) / flops(child.graph)
    assert 0.1 < share < 0.9
    found = imitate(parent, child, task, steps=10, largest=1.0, seed=0)
    assert found.epochs == pytest.approx(640 / 300 * share)
    few = imitate(parent, child, task, steps=10, images=20, largest=1.0, seed=0)
    assert few.epochs == pytest.approx(200 / 300 * share)


def test_a_part_that_is_most_of_a_network_does_not_imitate(task: Task) -> None:
    parent = sane_model(network())
    _, edit = replaced(parent.graph, ["one", "between", "two"], 3, 8)
    child = child_of(parent, edit)
    share = flops(edit.replacement) / flops(child.graph)
    assert imitate(parent, child, task, steps=2, largest=share - 0.01, seed=0) == Imitation(child, 0.0)
    assert imitate(parent, child, task, steps=2, largest=share + 0.01, seed=0).epochs > 0


class Tokens(nn.Module):
    """Tokens with the batch in the middle, or merged with them, and a table of positions beside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pos = nn.Linear(16, 8), nn.Parameter(torch.randn(8, 1, 8))
        self.one, self.two, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.reshape(-1, 8, 16)).transpose(0, 1) + self.pos
        x = x + self.two(self.one(x).relu())
        x = self.one(x.reshape(-1, 8)).reshape(8, -1, 8)
        return self.head(x.mean(0))


@pytest.mark.parametrize("ids", [["one", "relu", "two"], ["add", "one", "relu", "two"], ["head"]])
def test_a_batch_may_lie_anywhere(task: Task, ids: list[str]) -> None:
    parent = from_module(Tokens().eval(), torch.randn(2, 2, 8, 8))
    region = Region.of(ids)
    signature = region.signature(parent.graph)
    b = Builder()
    x, *others = [b.input(f"in{i}", type_) for i, type_ in enumerate(signature.inputs)]
    for other in others:
        x = b.add("add", x, other)
    width = signature.outputs[0].shape[-1]
    outputs = [b.add("linear", x, out_features=width) for _ in signature.outputs]
    edit = Edit(region, b.build(*outputs))
    child = child_of(parent, edit)
    assert new_part(parent.graph, child.graph) is not None
    assert imitate(parent, child, task, steps=3, seed=0).model is not child
