"""Trimming: which channels stay, how many, and that more of them change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import check_mutation, child_of, golden, random_inputs, sane_model, zoo_model
from masking import CLOSE, off

from netgraft.channels import ChannelGroup, channels
from netgraft.costs.analytic import flops, latency_estimate
from netgraft.errors import GraphError
from netgraft.ir import Batch, Builder, Graph, Model, TensorType, Value, Weights, apply
from netgraft.mutations.importance import Activations, Filters, Importance, Random, Taylor, reads, scales
from netgraft.mutations.trim import Trim, trim, trim_to_latency, widen

IMAGE = TensorType((Batch(), 3, 8, 8))


def inner(graph: Graph) -> ChannelGroup:
    return next(group for group in channels(graph).groups if group.makers == ("one.conv1",))


def loud(model: Model, key: str, axis: int, channels: list[int]) -> Model:
    """The model with some entries of a weight ten times as large."""
    weights = {k: np.array(tensor) for k, tensor in model.weights.items()}
    np.moveaxis(weights[key], axis, 0)[channels] *= 10
    return Model(model.graph, weights)


LOUD = [1, 4, 5, 7, 8, 11, 13, 14]


@pytest.mark.parametrize(
    ("importance", "key", "axis"),
    [
        (reads, "one.conv2.weight", 1),
        (Filters(), "one.conv1.weight", 0),
        (Filters(2), "one.conv1.weight", 0),
        (scales, "one.bn1.weight", 0),
        (lambda graph, group, weights: np.isin(np.arange(group.channels), LOUD) * 1.0, "one.bn1.weight", 0),
    ],
    ids=["reads", "L1", "L2", "scales", "the user's"],
)
def test_the_channels_that_matter_most_stay(importance: Importance, key: str, axis: int) -> None:
    model = loud(sane_model(golden("residual")), key, axis, LOUD)
    mutation = Trim((0.5,), importance=importance)
    edits = mutation.edits(model.graph, model.weights, np.random.default_rng(0))
    edit = next(edit for edit in edits if edit.origin == "trim.inner" and "one.conv1" in edit.region.nodes)
    child = child_of(model, edit)
    np.testing.assert_array_equal(child.weights["one.conv1.weight"], model.weights["one.conv1.weight"][LOUD])
    np.testing.assert_array_equal(child.weights["one.bn1.running_var"], model.weights["one.bn1.running_var"][LOUD])
    np.testing.assert_array_equal(child.weights["one.conv2.weight"], model.weights["one.conv2.weight"][:, LOUD])


def test_importances_from_data_rank_by_what_they_are_given() -> None:
    model = sane_model(golden("residual"))
    group = inner(model.graph)
    gradient = np.zeros((16, 16, 3, 3), np.float32)
    gradient[LOUD] = np.sign(model.weights["one.conv1.weight"][LOUD])
    by_change = Taylor({"one.conv1.weight": gradient})(model.graph, group, model.weights)
    assert sorted(np.argsort(-by_change)[:8].tolist()) == LOUD
    assert set(by_change[[0, 2, 3]]) == {0.0}
    magnitudes = np.zeros(16)
    magnitudes[LOUD] = 1
    read = model.graph["one.conv2"].inputs[0]
    by_size = Activations({(read, 1): magnitudes, (Value("one.conv1"), 1): 9 - 9 * magnitudes})
    assert sorted(np.argsort(-by_size(model.graph, group, model.weights))[:8].tolist()) == LOUD


def test_chance_is_repeatable() -> None:
    model = sane_model(golden("residual"))
    group = inner(model.graph)
    one, again, other = (Random(seed)(model.graph, group, model.weights) for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).all()


def test_what_no_layer_reads_is_ranked_by_its_filters() -> None:
    model = zoo_model("vit_tiny")
    compared = next(g for g in channels(model.graph).groups if g.readers == ("blocks.0.attention.attention",))
    scores = reads(model.graph, compared, model.weights)
    assert scores.shape == (compared.channels,) and (scores > 0).all()
    assert (scores == Filters()(model.graph, compared, model.weights)).all()


@pytest.mark.parametrize(
    ("count", "widths"), [(64, [32, 40, 48, 56]), (16, [8]), (8, [4, 5, 6, 7]), (2, [1]), (48, [24, 32, 40])]
)
def test_widths_are_multiples_of_eight_where_there_is_room(count: int, widths: list[int]) -> None:
    b = Builder()
    y = b.add("conv2d", b.input("x", IMAGE), out_channels=count, kernel=(1, 1), id="first")
    graph = b.build(b.add("conv2d", y, out_channels=3, kernel=(1, 1)))
    edits = Trim().edits(graph, sane_model(graph).weights, np.random.default_rng(0))
    assert sorted(edit.replacement["first"].attrs["out_channels"] for edit in edits) == widths


def test_a_single_channel_is_left_alone() -> None:
    b = Builder()
    y = b.add("conv2d", b.input("x", IMAGE), out_channels=1, kernel=(1, 1))
    graph = b.build(b.add("conv2d", y, out_channels=3, kernel=(1, 1)))
    assert not list(Trim().edits(graph, sane_model(graph).weights, np.random.default_rng(0)))


def test_the_most_channels_that_meet_a_latency_stay() -> None:
    b = Builder()
    y = b.add("conv2d", b.input("x", IMAGE), out_channels=64, kernel=(3, 3), id="first")
    graph = b.build(b.add("conv2d", y, out_channels=64, kernel=(3, 3), id="second"))
    (group,) = channels(graph).groups
    scores = np.arange(64.0)
    by_width = {}
    for width in range(8, 64, 8):
        edit = trim(graph, group, scores, width)
        assert edit is not None
        by_width[width] = latency_estimate(apply(graph, edit))
    for limit in (by_width[48], 1.01 * by_width[24], by_width[8]):
        found = trim_to_latency(graph, group, scores, limit, latency_estimate)
        assert found is not None
        meeting = max(width for width, latency in by_width.items() if latency <= limit)
        assert found.replacement["first"].attrs["out_channels"] == meeting
    assert trim_to_latency(graph, group, scores, 0.0, latency_estimate) is None


def test_more_channels_compute_the_same() -> None:
    """And the check of mutations holds them to it."""
    for name in ("residual", "inverted"):
        edits = check_mutation(Trim((1.5,)), sane_model(golden(name)), seeds=(0,))
        assert edits and all(edit.exact and edit.origin == "trim.wider" for edit in edits)


def test_a_group_grows_to_a_width() -> None:
    graph = golden("residual")
    edit = widen(graph, inner(graph), 23, np.random.default_rng(0))
    child = apply(graph, edit)
    assert child["one.conv1"].attrs["out_channels"] == 23
    assert child.types[child["one.conv2"].inputs[0]].shape[1] == 23


def test_a_group_that_must_keep_its_heads_cannot_grow() -> None:
    graph = zoo_model("vit_tiny").graph
    stuck = next(group for group in channels(graph).groups if not group.repeats)
    with pytest.raises(GraphError, match=r"see ChannelGroup\.repeats"):
        widen(graph, stuck, stuck.channels + 1, np.random.default_rng(0))


def test_a_trimmed_network_can_be_trimmed_again() -> None:
    model = zoo_model("mobilenet_v2")
    rng = np.random.default_rng(0)
    for _ in range(3):
        edit = next(Trim().edits(model.graph, model.weights, rng))
        model = child_of(model, edit)
    group = channels(model.graph).groups[3]
    assert off(model, group.units[:2], random_inputs(model.graph)) < CLOSE


def test_any_function_ranks() -> None:
    def last_first(graph: Graph, group: ChannelGroup, weights: Weights) -> np.ndarray:
        return np.arange(group.channels, dtype=float)

    graph = golden("residual")
    edit = next(Trim((0.5,), importance=last_first).edits(graph, {}, np.random.default_rng(0)))
    assert "indices=(8, 9, 10, 11, 12, 13, 14, 15)" in str(edit.carry) or "indices=(16," in str(edit.carry)


def test_all_groups_are_trimmed_alike_now_and_then() -> None:
    model = zoo_model("mobilenet_v2")
    edits = [e for e in Trim().edits(model.graph, model.weights, np.random.default_rng(0)) if e.origin == "trim.all"]
    left = [apply(model.graph, edit) for edit in edits]
    shares = sorted(flops(child) / flops(model.graph) for child in left)
    assert len(shares) == 4 and shares[0] < 0.4 and 0.7 < shares[-1] < 0.9
    narrowest = left[int(np.argmin([flops(child) for child in left]))]
    fewer = [n.id for n in model.graph if n.op == "conv2d" and narrowest[n.id].attrs != n.attrs]
    assert len(fewer) == sum(node.op == "conv2d" for node in model.graph), "every one, down to the depthwise"
