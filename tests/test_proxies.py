"""Training-free scores: their formulas, computed by hand on small networks, and what every network may expect."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from strategies import graphs
from studies import model_of, resnet
from test_cli import netgraft
from torch import nn

import netgraft as ng
from netgraft.convert.from_torch import from_module
from netgraft.errors import GraphError, MeasureError, OptionError
from netgraft.ir import Batch, Builder, Model, TensorType, untrained
from netgraft.proxies import PROXIES, Minibatch, Probe, anew, at_random, fisher_potential, of_task, proxies
from netgraft.spaces.families import nasbench201_benchmark

NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def linear_net(hidden: int = 5) -> Model:
    """Two linear layers with a ReLU between them."""
    b = Builder()
    x = b.add("linear", b.input("x", TensorType((Batch(), 4))), id="first", out_features=hidden)
    return model_of(b.build(b.add("linear", b.add("relu", x, id="relu"), id="second", out_features=3)))


def by_hand(model: Model, batch: Minibatch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """The loss, the first layer's output, and the weights of :func:`linear_net`, computed without netgraft."""
    weights = {key: torch.tensor(w, requires_grad=True) for key, w in model.weights.items()}
    hidden = F.linear(batch.inputs[0], weights["first.weight"], weights["first.bias"])
    outputs = F.linear(hidden.relu(), weights["second.weight"], weights["second.bias"])
    return F.cross_entropy(outputs, batch.targets[0]), hidden, weights


# --- formulas ---


def test_gradient_norm_and_snip_are_their_formulas() -> None:
    model = linear_net()
    batch = at_random(model.graph, 8)
    loss, _, weights = by_hand(model, batch)
    loss.backward()
    layers = [weights["first.weight"], weights["second.weight"]]
    found = proxies(model, batch, ["grad_norm", "snip"])
    assert found["grad_norm"] == pytest.approx(sum(float(w.grad.norm()) for w in layers), rel=1e-5)
    assert found["snip"] == pytest.approx(sum(float((w * w.grad).detach().abs().sum()) for w in layers), rel=1e-5)


def test_zico_compares_the_gradients_of_the_two_halves() -> None:
    model = linear_net()
    batch = at_random(model.graph, 8)
    gradients = []
    for half in batch.halves():
        loss, _, weights = by_hand(model, half)
        loss.backward()
        gradients.append({key: np.abs(w.grad.double().numpy()) for key, w in weights.items()})
    wanted = 0.0
    for key in ("first.weight", "second.weight"):
        both = np.stack([gradient[key] for gradient in gradients])
        mean, deviation = both.mean(0), both.std(0)
        wanted += math.log((mean[deviation > 0] / deviation[deviation > 0]).sum())
    assert proxies(model, batch, ["zico"])["zico"] == pytest.approx(wanted, rel=1e-3)


def test_naswot_counts_units_that_are_in_the_same_state() -> None:
    model = linear_net(hidden=40)
    batch = at_random(model.graph, 6)
    _, hidden, _ = by_hand(model, batch)
    on = (hidden > 0).numpy()
    kernel = [[float((a == b).sum()) for b in on] for a in on]
    assert proxies(model, batch, ["naswot"])["naswot"] == pytest.approx(np.linalg.slogdet(kernel)[1], rel=1e-6)


def test_synflow_of_a_chain_is_a_product_of_matrices() -> None:
    model = linear_net()
    first, second = (np.abs(model.weights[f"{layer}.weight"]).astype(np.float64) for layer in ("first", "second"))
    bias = np.abs(model.weights["first.bias"]).astype(np.float64)
    # Either layer passes on all that flows into it; what the first one's bias adds flows through the second only.
    wanted = 2 * (second @ first).sum() + (second @ bias).sum()
    assert proxies(model, names=["synflow"])["synflow"] == pytest.approx(math.log1p(wanted), rel=1e-6)


@pytest.mark.parametrize("sides", [1, 2, 3])
def test_fisher_potential_of_a_map_sums_over_places_before_it_squares(sides: int) -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 2, *(4,) * sides)))
    x = b.add(f"conv{sides}d", x, id="conv", out_channels=3, kernel=(3,) * sides)
    model = model_of(b.build(b.add("flatten", b.add("tanh", x, id="tanh"), id="flat")))
    batch = at_random(model.graph, 5)
    weights = {key: torch.tensor(w) for key, w in model.weights.items()}
    conv = getattr(F, f"conv{sides}d")(batch.inputs[0], weights["conv.weight"], weights["conv.bias"]).requires_grad_()
    tanh = conv.tanh()
    tanh.retain_grad()
    F.cross_entropy(tanh.flatten(1), batch.targets[0]).backward()

    def potential(a: torch.Tensor) -> float:
        return float(0.5 * (a * a.grad).detach().sum(tuple(range(2, a.ndim))).square().mean(0).sum())

    found = fisher_potential(Probe(model, batch))
    assert found == {"conv": pytest.approx(potential(conv), rel=1e-5)}
    assert fisher_potential(Probe(model, batch), ["tanh"])["tanh"] == pytest.approx(potential(tanh), rel=1e-5)
    with pytest.raises(GraphError, match="elsewhere"):
        fisher_potential(Probe(model, batch), ["elsewhere"])


def test_a_network_has_the_potential_of_its_layers_together() -> None:
    model = anew(model_of(resnet()))
    probe = Probe(model, at_random(model.graph, 8))
    parts = fisher_potential(probe)
    assert parts.keys() == {node.id for node in model.graph if node.op in ("conv2d", "linear")}
    assert all(value > 0 for value in parts.values())
    assert PROXIES["fisher"].score(probe) == pytest.approx(sum(parts.values()))


def test_connections_that_are_gone_count_for_nothing() -> None:
    """SNIP's, of networks that differ in the groups of one layer."""

    def block(groups: int) -> Model:
        b = Builder()
        x = b.add("conv2d", b.input("x", TensorType((Batch(), 3, 8, 8))), id="stem", out_channels=32, kernel=(3, 3))
        x = b.add("conv2d", b.add("relu", x), id="layer", out_channels=32, kernel=(3, 3), groups=groups)
        x = b.add("flatten", b.add("adaptive_avg_pool2d", b.add("relu", x)))
        return untrained(b.build(b.add("linear", x, id="head", out_features=10)))

    def mean(model: Model) -> float:
        return float(
            np.mean([proxies(anew(model, n), at_random(model.graph, 32, n), ["snip"])["snip"] for n in range(5)])
        )

    assert mean(block(1)) > 1.5 * mean(block(32))


# --- every network ---


def test_a_network_without_a_path_scores_least() -> None:
    """Of NAS-Bench-201: the cell that gives zeros, beside one of convolutions."""
    cells = [nasbench201_benchmark(cell) for cell in (NOTHING, NOTHING.replace("none~0|+", "nor_conv_1x1~0|+", 1))]
    empty = proxies(untrained(cells[0]), at_random(cells[0], 4))
    assert empty["naswot"] == -math.inf
    assert {empty[name] for name in ("synflow", "fisher", "grad_norm", "snip", "zico")} == {0.0}


@pytest.mark.parametrize("stage", ["train", "eval"])
def test_the_same_seed_gives_the_same_scores_and_leaves_the_weights_alone(stage: str) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(288, 4)
    )
    net.train(stage == "train")
    model = from_module(net, torch.zeros(2, 3, 8, 8))
    before = {key: w.copy() for key, w in model.weights.items()}
    random = torch.get_rng_state()
    first, again = proxies(model), proxies(model)
    assert first == again and first.keys() == PROXIES.keys()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(np.array_equal(model.weights[key], w) for key, w in before.items())
    assert proxies(model, seed=1) != first


def test_dropout_makes_no_noise() -> None:
    def scores(rate: float) -> dict[str, float]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(rate), nn.Flatten(), nn.Linear(288, 4))
        return proxies(from_module(net, torch.zeros(2, 3, 8, 8)))

    assert scores(0.5) == scores(0.1)


@given(graphs())
@settings(max_examples=25, deadline=None)
def test_any_graph_is_scored_or_has_a_reason(graph) -> None:  # type: ignore[no-untyped-def]
    """Sums, splits, shared weights, several inputs and outputs."""
    model = model_of(graph)
    if not any(node.op == "conv2d" for node in graph):
        with pytest.raises(MeasureError, match="no convolution or linear layer"):
            proxies(model)
        return
    found = proxies(model, at_random(graph, 4))
    assert {"synflow", "fisher", "grad_norm", "snip", "zico"} <= found.keys()
    assert all(math.isfinite(value) and value >= 0 for name, value in found.items() if name not in ("naswot", "zico"))
    assert ("naswot" in found) == any(node.op in ("relu", "silu", "leaky_relu") for node in graph)


@pytest.mark.parametrize("sides", [1, 2, 3])
def test_signals_images_and_volumes_are_scored(sides: int) -> None:
    conv, norm, pool = (getattr(nn, f"{name}{sides}d") for name in ("Conv", "BatchNorm", "MaxPool"))
    body = [conv(2, 6, 3, padding=1), norm(6), nn.ReLU(), pool(2), conv(6, 4, 3, padding=1), nn.ReLU(), nn.Flatten()]
    model = from_module(nn.Sequential(*body, nn.Linear(4 * 4**sides, 3)), torch.zeros(2, 2, *(8,) * sides))
    found = proxies(model, at_random(model.graph, 16))
    assert found.keys() == PROXIES.keys() and all(map(math.isfinite, found.values()))
    assert len(fisher_potential(Probe(model, at_random(model.graph, 16)))) == 3


class Rolled(nn.Module):
    """A frozen operation, two inputs and two outputs, no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("table", torch.arange(4))

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.roll(self.conv(x).relu(), 1, 3)[:, self.table]
        return y * scale, y.mean((2, 3))


def test_frozen_operations_and_several_inputs_and_outputs() -> None:
    model = from_module(Rolled(), (torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 1, 1)))
    assert any(node.op == "frozen" for node in model.graph)
    found = proxies(anew(model))
    assert found.keys() == PROXIES.keys() and all(map(math.isfinite, found.values()))


def test_new_weights_leave_what_is_stored() -> None:
    model = from_module(Rolled(), (torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 1, 1)))
    fresh = anew(model, 3)
    changed = {key for key in model.weights if not np.array_equal(model.weights[key], fresh.weights[key])}
    assert changed == {"conv.weight", "conv.bias"}
    assert np.array_equal(anew(model, 3).weights["conv.weight"], fresh.weights["conv.weight"])


def test_what_cannot_be_scored_says_why() -> None:
    model = linear_net()
    with pytest.raises(OptionError, match="no proxy 'sinflow'; there are synflow, naswot"):
        proxies(model, names=["sinflow"])
    with pytest.raises(MeasureError, match="halved"):
        proxies(model, at_random(model.graph, 1), ["zico"])
    smooth = Builder()
    x = smooth.add("linear", smooth.input("x", TensorType((Batch(), 4))), out_features=3)
    with pytest.raises(MeasureError, match="no ReLU"):
        proxies(model_of(smooth.build(x)), names=["naswot"])
    wrong = replace(at_random(model.graph), inputs=(torch.zeros(64, 5),))
    with pytest.raises(MeasureError, match=r"a small network cannot be run forwards and backwards: .*64x5"):
        proxies(model, wrong, ["snip"])


def test_a_task_gives_its_own_examples_and_loss() -> None:
    model = ng.load("zoo:resnet20?channels=1&width=0.25&input=1x8x8")
    task = ng.task("digits", model)
    batch = of_task(task, 16, seed=2)
    assert batch.inputs[0].shape == (16, 1, 8, 8) and batch.targets[0].dtype == torch.int64
    assert torch.equal(of_task(task, 16, seed=2).inputs[0], batch.inputs[0])
    assert not torch.equal(of_task(task, 16, seed=3).inputs[0], batch.inputs[0])
    on_digits = proxies(anew(model), batch)
    assert on_digits.keys() == PROXIES.keys() and on_digits["fisher"] > 0


# --- the command line ---


def test_inspect_shows_scores_with_their_papers(tmp_path: Path) -> None:
    code, said = netgraft("inspect", "zoo:resnet20?width=0.25&channels=1&input=1x8x8", "--scores", "--data", "digits")
    assert code == 0
    for expected in [*PROXIES, "Mellor et al., ICML 2021", "64 training images of digits", "new weights"]:
        assert expected in said
    assert "naswot" not in netgraft("inspect", "zoo:resnet20?width=0.25")[1]
    assert netgraft("inspect", "zoo:resnet20", "--data", "digits")[0] == 2


def test_inspect_says_which_score_a_network_has_not() -> None:
    code, said = netgraft("inspect", "zoo:vit_tiny?image=32", "--scores")
    assert code == 0
    assert "no synflow: vit_tiny" in said and "zico" in said and "64 random inputs with random" in said
