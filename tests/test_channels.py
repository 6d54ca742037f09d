"""Channels: which of them go together, and that what is left computes what it did."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from contracts import GOLDEN_NAMES, child_of, golden, outputs, random_inputs, sane_model, zoo_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from masking import CLOSE, masked, off, some_units
from networks import NETWORKS, N, everything

from netgraft.channels import ChannelGroup, channels, drop, droppable, repeat, rules
from netgraft.errors import GraphError
from netgraft.ir import OPS, Batch, Builder, Graph, Region, Slice, TensorType, Value

IMAGE = TensorType((N, 3, 8, 8))


def group_of(graph: Graph, maker: str) -> ChannelGroup:
    return next(group for group in channels(graph).groups if maker in group.makers)


# What goes together


def test_the_inside_of_a_block_is_a_group_of_its_own() -> None:
    group = group_of(golden("residual"), "one.conv1")
    assert (group.makers, group.readers, group.channels) == (("one.conv1",), ("one.conv2",), 16)


def test_a_stage_is_coupled_by_its_sums() -> None:
    graph = golden("residual")
    stage = group_of(graph, "stem.conv")
    assert (stage.makers, stage.readers) == (("stem.conv", "one.conv2"), ("one.conv1", "two.conv1", "two.short.conv"))
    assert group_of(graph, "two.conv2").readers == ("head",)


def test_depthwise_convolutions_and_gates_are_coupled() -> None:
    group = group_of(golden("inverted"), "expand.conv")
    assert set(group.makers) == {"expand.conv", "gate.up"}
    assert set(group.readers) == {"gate.down", "project.conv"}
    assert ("depth.conv.weight", 0) in group.axes and ("depth.conv.weight", 1) not in group.axes


def test_what_cannot_go_says_why() -> None:
    assert channels(golden("residual")).held == {"head": "the network's output"}
    b = Builder()
    y = b.add("conv2d", b.input("x", IMAGE), out_channels=8, kernel=(1, 1), id="first")
    roll = {"target": "aten.roll.default", "args": (("input", 0), (1,), (1,)), "types": (TensorType((N, 8, 8, 8)),)}
    y = b.add("conv2d", b.add("frozen", y, id="roll", **roll), out_channels=8, kernel=(1, 1), id="second")
    y = b.add("conv2d", b.add("softmax", y, dim=1, id="share"), out_channels=2, kernel=(1, 1), id="last")
    found = channels(b.build(y))
    assert found.held == {
        "first": "roll (aten.roll.default)",
        "second": "share (softmax)",
        "last": "the network's output",
    }
    assert found.groups == ()


def test_each_part_of_a_concatenation_is_a_group_and_its_reader_loses_the_right_entries() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    parts = [b.add("conv2d", x, out_channels=n, kernel=(1, 1), id=f"part{n}") for n in (4, 6)]
    graph = b.build(b.add("conv2d", b.add("concat", *parts), out_channels=2, kernel=(1, 1), id="head"))
    group = group_of(graph, "part6")
    edit = drop(graph, [group.units[1], group.units[4]])
    assert edit.carry["head.weight"] == Slice(edit.carry["head.weight"].source, 1, (0, 1, 2, 3, 4, 6, 7, 9))  # type: ignore[union-attr]
    assert edit.replacement["part6"].attrs["out_channels"] == 4 and "part4" not in edit.replacement


def test_attention_loses_whole_heads_and_equal_parts_of_each() -> None:
    graph = zoo_model("vit_tiny").graph
    heads, inner, values = (g for g in channels(graph).groups if g.makers == ("blocks.0.attention.qkv",))
    assert [heads.channels, inner.channels, values.channels] == [3, 16, 16]
    assert heads.readers == values.readers == ("blocks.0.attention.project",)
    edit = drop(graph, [heads.units[1], inner.units[0], values.units[0], values.units[5]])
    kept = edit.carry["blocks.0.attention.qkv.weight"]
    assert isinstance(kept, Slice) and len(kept.indices) == 2 * (15 + 15 + 14)
    assert not set(kept.indices) & set(range(16, 32))  # the second head's queries


def test_groups_of_a_convolution_go_whole_or_lose_equally() -> None:
    b = Builder()
    x = b.add("conv2d", b.input("x", IMAGE), out_channels=12, kernel=(1, 1), id="into")
    x = b.add("conv2d", x, out_channels=8, kernel=(3, 3), groups=4, id="grouped")
    graph = b.build(b.add("conv2d", x, out_channels=2, kernel=(1, 1), id="head"))
    whole, inside, filters = channels(graph).groups
    assert [whole.channels, inside.channels, filters.channels] == [4, 3, 2]
    node = drop(graph, [whole.units[2], inside.units[0]]).replacement["grouped"]
    assert (node.attrs["groups"], node.attrs["out_channels"]) == (3, 6)


def test_a_shuffle_of_channels_ties_those_that_meet() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    halves = [b.add("conv2d", x, out_channels=6, kernel=(1, 1), id=f"half{i}") for i in range(2)]
    y = b.add("reshape", b.add("concat", *halves), shape=(N, 2, 6, 8, 8))
    y = b.add("reshape", b.add("permute", y, dims=(0, 2, 1, 3, 4)), shape=(N, 12, 8, 8))
    graph = b.build(b.add("conv2d", y, out_channels=2, kernel=(1, 1), id="head"))
    group = next(group for group in channels(graph).groups if group.channels == 6)
    assert set(group.makers) == {"half0", "half1"}
    kept = drop(graph, [group.units[2]]).carry["head.weight"]
    assert isinstance(kept, Slice) and kept.indices == (0, 1, 2, 3, 6, 7, 8, 9, 10, 11)


def test_channels_are_found_again_behind_a_flattened_map() -> None:
    b = Builder()
    x = b.add("conv2d", b.input("x", IMAGE), out_channels=5, kernel=(3, 3), stride=(4, 4), id="stem")
    graph = b.build(b.add("linear", b.add("flatten", x), out_features=4, id="head"))
    group = group_of(graph, "stem")
    kept = drop(graph, [group.units[1]]).carry["head.weight"]
    assert isinstance(kept, Slice) and kept.indices == (*range(4), *range(8, 20))


def test_shared_weights_lose_the_same_channels() -> None:
    b = Builder()
    weights = {"weight": "shared.weight", "bias": "shared.bias"}
    x = b.add("conv2d", b.input("x", IMAGE), out_channels=8, kernel=(1, 1), id="stem")
    for id in ("first", "second"):
        x = b.add("conv2d", x, out_channels=8, kernel=(1, 1), id=id, weights=weights)
    graph = b.build(b.add("conv2d", x, out_channels=2, kernel=(1, 1), id="head"))
    (group,) = channels(graph).groups
    assert group.makers == ("stem", "first", "second")
    child = child_of(sane_model(graph), drop(graph, group.units[:3]))
    assert child.weights["shared.weight"].shape == (5, 5, 1, 1)


def test_every_operation_has_a_rule() -> None:
    without = {op for op, definition in OPS.items() if op not in rules.RULES and not definition.pointwise}
    assert without == set()


# What is left computes what it did


def _inputs(graph: Graph) -> list[torch.Tensor]:
    return [x.abs() + 0.1 for x in random_inputs(graph)]  # for roots and quotients


@pytest.mark.parametrize("name", [*GOLDEN_NAMES, *NETWORKS])
def test_children_compute_what_the_network_does_with_masks(name: str) -> None:
    model = sane_model(golden(name) if name in GOLDEN_NAMES else NETWORKS[name]())
    rng = np.random.default_rng(0)
    for _ in range(6):
        if units := some_units(model.graph, rng):
            assert off(model, units, _inputs(model.graph)) < CLOSE


@pytest.mark.parametrize("name", ["shufflenet_v2", "vit_tiny", "densenet40"])
def test_children_of_the_zoo_compute_what_it_does_with_masks(name: str) -> None:
    model, rng = zoo_model(name), np.random.default_rng(1)
    for _ in range(3):
        assert off(model, some_units(model.graph, rng), random_inputs(model.graph)) < CLOSE


def test_all_operations_side_by_side_hold_their_outputs() -> None:
    assert channels(everything()).groups == ()


class _Sketch:
    """A random network in which each step takes some of what there is by now, and a head that reads what is left."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.b = draw, Builder()
        x = self.b.input("x", TensorType((N, 3, 4, 4)))
        self.values = [self.conv(x, self.draw(st.sampled_from([4, 6, 8]))) for _ in range(2)]

    def conv(self, x: Value, out: int, groups: int = 1, kernel: int = 1) -> Value:
        return self.b.add(
            *("conv2d", x), out_channels=out, groups=groups, kernel=(kernel, kernel), padding=(kernel // 2, kernel // 2)
        )

    def graph(self, steps: int) -> Graph:
        for _ in range(steps):
            x = self.draw(st.sampled_from(self.values[-3:]))
            made = self.draw(st.sampled_from(STEPS))(self, x)
            self.values += [value for value in made if self.b.type(value).concrete()[1] <= 24]
        heads = [self.b.add("mean", self.conv(value, 2), dims=(2, 3)) for value in self.values[-3:]]
        return self.b.build(*heads)

    def width(self, x: Value) -> int:
        return self.b.type(x).concrete()[1]

    def like(self, x: Value) -> Value:
        """Another value of the same shape."""
        alike = [value for value in self.values if self.b.type(value) == self.b.type(x) and value != x]
        return self.draw(st.sampled_from(alike)) if alike else self.conv(self.values[0], self.width(x))

    def factor(self, x: Value) -> int:
        """A divisor of the channels."""
        return self.draw(st.sampled_from([n for n in (1, 2, 3, 4, 6, 8) if self.width(x) % n == 0]))


def _shuffle(s: _Sketch, x: Value) -> list[Value]:
    n, c = s.factor(x), s.width(x)
    y = s.b.add("permute", s.b.add("reshape", x, shape=(N, n, c // n, 4, 4)), dims=(0, 2, 1, 3, 4))
    return [s.b.add("flatten", y, start=1, end=2)]


def _cut(s: _Sketch, x: Value) -> list[Value]:
    at = s.draw(st.integers(1, s.width(x) - 1)) if s.width(x) > 1 else 0
    if not at:
        return []
    cut = s.b.add("split", x, sizes=(at, s.width(x) - at))
    return [Value(cut.node, 0), Value(cut.node, 1)]


def _slice(s: _Sketch, x: Value) -> list[Value]:
    start = s.draw(st.integers(0, s.width(x) - 1))
    return [s.b.add("slice", x, dim=1, start=start, stop=s.draw(st.integers(start + 1, s.width(x))))]


def _pad(s: _Sketch, x: Value) -> list[Value]:
    return [s.b.add("pad", x, pads=(0, 0, 0, 0, s.draw(st.integers(0, 2)), s.draw(st.integers(0, 2))), value=0.5)]


def _gate(s: _Sketch, x: Value) -> list[Value]:
    y = s.b.add("linear", s.b.add("mean", x, dims=(2, 3)), out_features=4)
    y = s.b.add("sigmoid", s.b.add("linear", s.b.add("relu", y), out_features=s.width(x)))
    return [s.b.add("mul", x, s.b.add("reshape", y, shape=(N, -1, 1, 1)))]


def _pixels(s: _Sketch, x: Value) -> list[Value]:
    """There and back again, by two different ways of counting."""
    if s.width(x) % 4 == 0:
        y = s.b.add("relu", s.b.add("pixel_shuffle", x, factor=2))
        return [s.b.add("pixel_unshuffle", y, factor=2)]
    return [s.b.add("pixel_shuffle", s.b.add("pixel_unshuffle", x, factor=2), factor=2)]


def _attend(s: _Sketch, x: Value) -> list[Value]:
    """Attention over positions, in heads; written out or as one operation, heads beside the batch or in it."""
    c, heads = s.width(x), s.factor(x)
    tokens = s.b.add("permute", s.b.add("flatten", x, start=2), dims=(0, 2, 1))
    tokens = s.b.add("layer_norm", tokens, shape=(c,))
    qkv = s.b.add("split", s.b.add("linear", tokens, out_features=3 * c), sizes=(c, c, c), dim=2)
    beside = s.draw(st.booleans())
    parts = []
    for i in range(3):
        y = s.b.add("reshape", Value(qkv.node, i), shape=(N, 16, heads, c // heads))
        y = s.b.add("permute", y, dims=(0, 2, 1, 3))
        parts.append(y if beside else s.b.add("reshape", y, shape=(Batch(heads), 16, c // heads)))
    if s.draw(st.booleans()):
        y = s.b.add("attention", *parts)
    else:
        back = (0, 1, 3, 2) if beside else (0, 2, 1)
        scores = s.b.add("mul_scalar", s.b.add("matmul", parts[0], s.b.add("permute", parts[1], dims=back)), value=0.4)
        y = s.b.add("matmul", s.b.add("softmax", scores, dim=-1), parts[2])
    y = y if beside else s.b.add("reshape", y, shape=(N, heads, 16, c // heads))
    y = s.b.add("reshape", s.b.add("permute", y, dims=(0, 2, 1, 3)), shape=(N, 16, c))
    y = s.b.add("add", s.b.add("linear", y, out_features=c), tokens)
    return [s.b.add("reshape", s.b.add("permute", y, dims=(0, 2, 1)), shape=(N, c, 4, 4))]


def _scale(s: _Sketch, x: Value) -> list[Value]:
    """A stored tensor for each channel, and a sum over channels beside it."""
    scale = s.b.add("constant", type=TensorType((s.width(x), 1, 1)), trainable=True)
    y = s.b.add("mul", x, scale)
    total = s.b.add("sum", y, dims=(1,), keepdim=True)
    return [s.b.add("add", y, s.b.add("expand", total, shape=(N, s.width(x), 4, 4)))]


STEPS: list[Callable[[_Sketch, Value], list[Value]]] = [
    lambda s, x: [s.conv(x, s.draw(st.sampled_from([4, 6, 8])), kernel=3)],
    lambda s, x: [s.conv(x, s.width(x), groups=s.width(x), kernel=3)],
    lambda s, x: [s.conv(x, 2 * s.width(x), groups=s.factor(x))],
    lambda s, x: [
        s.b.add("conv_transpose2d", x, out_channels=s.width(x), groups=s.factor(x), kernel=(3, 3), padding=(1, 1))
    ],
    lambda s, x: [s.b.add("batch_norm", x)],
    lambda s, x: [s.b.add("group_norm", x, groups=s.factor(x))],
    lambda s, x: [s.b.add("prelu", x, parameters=s.width(x))],
    lambda s, x: [s.b.add("sigmoid", x)],
    lambda s, x: [s.b.add("max_pool2d", x, kernel=(3, 3), stride=(1, 1), padding=(1, 1))],
    lambda s, x: [s.b.add("add", x, s.like(x))],
    lambda s, x: [s.b.add("sub", x, s.like(x))],
    lambda s, x: [s.b.add("concat", x, s.draw(st.sampled_from(s.values)))],
    _shuffle,
    _cut,
    _slice,
    _pad,
    _gate,
    _pixels,
    _attend,
    _scale,
]


@st.composite
def sketches(draw: st.DrawFn) -> Graph:
    return _Sketch(draw).graph(draw(st.integers(2, 7)))


@settings(max_examples=60, deadline=None)
@given(sketches(), st.integers(0, 2**16))
def test_children_of_any_network_compute_what_it_does_with_masks(graph: Graph, seed: int) -> None:
    units = some_units(graph, np.random.default_rng(seed))
    assume(units)
    assert off(sane_model(graph), units, random_inputs(graph)) < CLOSE


@settings(max_examples=40, deadline=None)
@given(sketches(), st.integers(0, 2**16))
def test_repeated_channels_change_nothing(graph: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [group for group in channels(graph).groups if group.repeats]
    assume(groups)
    group = groups[int(rng.integers(len(groups)))]
    edit = repeat(graph, {unit: int(rng.integers(1, 4)) for unit in group.units} | {group.units[0]: 2})
    assert edit.exact
    model, x = sane_model(graph), random_inputs(graph)
    for one, other in zip(outputs(child_of(model, edit), x), outputs(model, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# The check notices what is wrong


@pytest.mark.parametrize("fault", ["another entry", "another filter", "a weight of another size", "a rule forgotten"])
def test_a_planted_fault_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sane_model(golden("residual"))
    if fault == "a rule forgotten":  # a softmax over channels that thinks it works on each alone
        b = Builder()
        y = b.add("conv2d", b.input("x", IMAGE), out_channels=8, kernel=(1, 1))
        graph = b.build(b.add("conv2d", b.add("softmax", y, dim=1), out_channels=2, kernel=(1, 1)))
        monkeypatch.setattr(rules, "RULES", {op: r for op, r in rules.RULES.items() if op != "softmax"})
        model = sane_model(graph)
    group = channels(model.graph).groups[0]
    edit = drop(model.graph, group.units[:3])
    key = next(key for key, carry in edit.carry.items() if isinstance(carry, Slice))
    carry = edit.carry[key]
    assert isinstance(carry, Slice)
    if fault == "another entry":
        key, carry = next((k, c) for k, c in edit.carry.items() if isinstance(c, Slice) and c.axis == 1)
        edit.carry[key] = Slice(carry.source, 1, (0, *carry.indices[1:]))  # type: ignore[index]
    elif fault == "another filter":
        edit.carry[key] = Slice(carry.source, carry.axis, carry.indices[::-1])  # type: ignore[index]
    elif fault == "a weight of another size":
        edit.carry[key] = carry.source  # type: ignore[index]
        with pytest.raises(GraphError):
            off(model, group.units[:3], random_inputs(model.graph), edit)
        return
    assert off(model, group.units[:3], random_inputs(model.graph), edit) > 100 * CLOSE


def test_masks_matter() -> None:
    """Otherwise a child that drops nothing would pass."""
    model = sane_model(golden("residual"))
    group = group_of(model.graph, "stem.conv")
    x = random_inputs(model.graph)
    (one,), (other,) = outputs(masked(model, group.units[:2]), x), outputs(model, x)
    assert (one - other).abs().max() > 0.01


# What does not work says so


def test_something_always_stays() -> None:
    graph = golden("residual")
    group = group_of(graph, "one.conv1")
    with pytest.raises(GraphError, match="nothing would be left of"):
        drop(graph, group.units)
    assert droppable(graph, group.units) == list(group.units[:-1])


def test_strangers_are_no_channels() -> None:
    graph = golden("residual")
    with pytest.raises(GraphError, match="no channel that can be dropped"):
        drop(graph, [10**9])
    with pytest.raises(GraphError, match="no channels"):
        drop(graph, [])


def test_what_attention_compares_cannot_be_repeated() -> None:
    graph = zoo_model("vit_tiny").graph
    compared = next(g for g in channels(graph).groups if g.makers == ("blocks.0.attention.qkv",) and g.channels == 16)
    with pytest.raises(GraphError, match="cannot be there 2 times"):
        repeat(graph, {compared.units[0]: 2})


def test_the_hull_takes_in_what_lies_between() -> None:
    graph = golden("residual")
    assert Region.hull(graph, ["one.conv1", "one.add"]).nodes == {
        node.id for node in graph if node.id.startswith("one.") and node.id != "one.relu2"
    }
    assert not Region.of(["one.conv1", "one.add"]).is_convex(graph)
    assert Region.hull(graph, ["one.conv1"]).nodes == {"one.conv1"}
