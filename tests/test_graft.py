"""Grafting: the contract on networks of every kind, what is left alone, and which weights survive."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from contracts import GOLDEN_NAMES, check_mutation, child_of, golden, outputs, random_inputs, sane_model

from netgraft.errors import OptionError
from netgraft.ir import Batch, Builder, Edit, Fresh, Graph, Keep, Region, TensorType, apply, inherit, parse
from netgraft.mutations.fixed import delicate
from netgraft.mutations.graft import NORMALISATIONS, Graft, with_weights
from netgraft.mutations.transplant import transplant
from netgraft.segments import Bank, Line, Segment, Vocabulary, head, mine

MODELS = [(name, golden(name)) for name in GOLDEN_NAMES]
IMAGE = TensorType((Batch(), 8, 6, 6))


@pytest.fixture(scope="module")
def bank() -> Bank:
    return mine(MODELS, Vocabulary.learn([Line.of(graph) for _, graph in MODELS] * 2, 400))


def layers(*specs: tuple[int, int]) -> Graph:
    """A chain of convolutions of (channels, kernel), each with a batch norm and a ReLU, on 8 channels of 6x6."""
    b = Builder()
    x = b.input("x", IMAGE)
    for i, (channels, kernel) in enumerate(specs, 1):
        pad = (kernel // 2, kernel // 2)
        x = b.add("conv2d", x, id=f"block.conv{i}", out_channels=channels, kernel=(kernel, kernel), padding=pad)
        x = b.add("relu", b.add("batch_norm", x, id=f"block.bn{i}"), id=f"block.relu{i}")
    return b.build(x)


def after(source: Graph, replacement: Graph) -> tuple[Graph, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The child of ``source`` when all of it is replaced; its weights and the source's."""
    model = sane_model(source)
    new, carry = transplant(source, replacement, model.weights)
    edit = Edit(Region.of(node.id for node in source), new, carry)
    weights, _ = inherit(source, edit, model.weights, np.random.default_rng(0))
    return apply(source, edit), weights, dict(model.weights)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_grafts_keep_their_promises(bank: Bank, name: str) -> None:
    assert len(check_mutation(Graft(bank), sane_model(golden(name)), limit=25)) > 5


@pytest.mark.parametrize("exact", [0.0, 1.0])
def test_widths_are_multiples(exact: float) -> None:
    """Of segments that have the region's types already, too: inside they have widths of their own."""
    segments = [Segment.of(layers((inner, 3), (outer, 1)), ["test"]) for inner, outer in ((5, 8), (6, 12))]
    bank = Bank.of(segments, Vocabulary((), ()))

    def widths(multiple: int) -> set[int]:
        grafts = Graft(bank, exact=exact, multiple=multiple)
        graph = layers((8, 3), (8, 3), (8, 3), (8, 3))
        children = [proposal.child for proposal in islice(grafts.proposals(graph, np.random.default_rng(0)), 100)]
        return {node.attrs["out_channels"] for child in children for node in child if node.op == "conv2d"}

    assert any(width % 4 for width in widths(1)), "otherwise this says nothing"
    assert not any(width % 4 for width in widths(4))


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_heads_and_constants_are_left_alone(bank: Bank, name: str) -> None:
    graph = golden(name)
    apart = head(graph) | {node.id for node in graph if node.op == "constant"}
    for edit in islice(Graft(bank).edits(graph, {}, np.random.default_rng(0)), 40):
        assert not edit.region.nodes & apart


def test_what_a_root_hangs_on_stays_whole(bank: Bank) -> None:
    b = Builder()
    x = b.add("conv2d", b.input("x", IMAGE), id="conv", out_channels=8, kernel=(3, 3), padding=(1, 1))
    squares = b.add("pow", x, id="squares", exponent=2.0)
    variance = b.add("mean", squares, id="variance", dims=(2, 3), keepdim=True)
    deviation = b.add("sqrt", b.add("add_scalar", variance, id="eps", value=1e-5), id="deviation")
    scaled = b.add("mul", x, deviation, id="scaled")
    end = b.add("conv2d", b.add("relu", scaled), id="end", out_channels=8, kernel=(1, 1))
    graph = b.build(b.add("conv2d", end, id="last", out_channels=8, kernel=(1, 1)))
    chain = {"squares", "variance", "eps", "deviation"}
    assert delicate(graph) == (frozenset(chain),)
    edits = list(islice(Graft(bank).edits(graph, {}, np.random.default_rng(0)), 60))
    assert len(edits) > 10
    assert all(edit.region.nodes >= chain or edit.region.nodes.isdisjoint(chain) for edit in edits)


def test_most_weights_are_inherited(bank: Bank) -> None:
    model = sane_model(golden("residual"))
    edits = list(islice(Graft(bank).edits(model.graph, model.weights, np.random.default_rng(0)), 40))
    shares = [inherit(model.graph, e, model.weights, np.random.default_rng(0))[1].share for e in edits]
    assert np.median(shares) > 0.7


def test_the_origin_names_segment_and_network(bank: Bank) -> None:
    edit = next(Graft(bank).edits(golden("residual"), {}, np.random.default_rng(0)))
    digest, _, network = edit.origin.removeprefix("graft.").partition(" of ")
    (segment,) = [segment for segment in bank if segment.digest.startswith(digest)]
    assert network == segment.provenance[0]


def test_unwanted_operations_are_not_grafted(bank: Bank) -> None:
    graph = golden("residual")
    allowed = frozenset({"conv2d", "relu", "add", "max_pool2d", "concat"})
    proposals = list(islice(Graft(bank, allowed=allowed).proposals(graph, np.random.default_rng(0)), 30))
    assert proposals
    assert {node.op for proposal in proposals for node in proposal.edit.replacement} <= allowed


def test_a_whitelist_that_leaves_nothing_says_what_is_missing(bank: Bank) -> None:
    with pytest.raises(OptionError, match=r"keeps to the operations batch_norm, relu; with conv2d as well \d+ of"):
        Graft(bank, allowed=frozenset({"batch_norm", "relu"}))
    with pytest.raises(OptionError, match=r"no operation .conv4d. to allow; there are .*conv2d"):
        Graft(bank, allowed=frozenset({"conv4d"}))


def test_a_network_without_normalisation_stays_so(bank: Bank) -> None:
    graph = parse(
        RESIDUAL.replace("batch_norm", "identity").replace(
            "return y", "z = conv2d(y) {out_channels=3, kernel=(1, 1)}\n  return z"
        )
    )
    replacements = [p.edit.replacement for p in islice(Graft(bank).proposals(graph, np.random.default_rng(0)), 30)]
    assert replacements
    assert all(node.op not in NORMALISATIONS for replacement in replacements for node in replacement)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_proposals_are_the_children_without_their_weights(bank: Bank, name: str) -> None:
    graph, model = golden(name), sane_model(golden(name))
    proposals = list(islice(Graft(bank).proposals(graph, np.random.default_rng(0)), 20))
    edits = list(islice(Graft(bank).edits(graph, model.weights, np.random.default_rng(0)), 20))
    assert [p.digest for p in proposals] == [apply(graph, edit).digest for edit in edits]
    assert [p.edit.origin for p in proposals] == [edit.origin for edit in edits]
    assert all(not p.edit.carry and apply(graph, p.edit).digest == p.digest for p in proposals)
    assert all(with_weights(graph, p.edit, model.weights) == edit for p, edit in zip(proposals, edits, strict=True))


def test_every_wiring_becomes_a_child() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    y = b.add("add", b.add("relu", x, id="left"), b.add("silu", x, id="right"), id="sum")
    graph = b.build(b.add("conv2d", y, id="head", out_channels=2, kernel=(1, 1)))
    b = Builder()
    difference = b.add("sub", b.input("x", IMAGE), b.input("y", IMAGE))
    segment = b.build(b.add("conv2d", difference, out_channels=8, kernel=(1, 1)))
    bank = Bank.of([Segment.of(segment, ["test"])], Vocabulary((), ()))
    children = [
        p.child for p in Graft(bank).proposals(graph, np.random.default_rng(0)) if p.edit.region.nodes == {"sum"}
    ]
    read = {tuple(v.node for v in node.inputs) for child in children for node in child if node.op == "sub"}
    assert read == {("left", "right"), ("right", "left")}
    assert len(children) == 2


def test_only_exact_matches_if_asked(bank: Bank) -> None:
    exact = {segment.digest for segment in bank}
    edits = list(
        islice(Graft(bank, exact=1.0, sparsity=0.3).edits(golden("branches"), {}, np.random.default_rng(0)), 20)
    )
    assert any(edit.replacement.digest in exact for edit in edits)


def test_an_empty_bank_proposes_nothing() -> None:
    graph = golden("residual")
    assert list(Graft(Bank.of((), Vocabulary((), ()))).edits(graph, {}, np.random.default_rng(0))) == []


def test_a_graph_that_is_all_head_has_nothing_to_graft(bank: Bank) -> None:
    b = Builder()
    graph = b.build(b.add("linear", b.input("x", TensorType((Batch(), 8))), out_features=3))
    assert list(Graft(bank).edits(graph, {}, np.random.default_rng(0))) == []


def test_equal_layers_are_kept_by_name() -> None:
    child, weights, before = after(layers((8, 3), (8, 3)), layers((8, 3), (8, 3), (8, 3)))
    assert all(np.array_equal(weights[key], tensor) for key, tensor in before.items())
    assert {"block.conv1", "block.conv2", "block.bn1"} <= {node.id for node in child}


def test_a_narrower_layer_takes_the_strongest_filters_and_the_next_follows() -> None:
    _, weights, before = after(layers((8, 3), (8, 3)), layers((4, 3), (8, 3)))
    norms = np.linalg.norm(before["block.conv1.weight"].reshape(8, -1), axis=1)
    kept = np.sort(np.argsort(-norms)[:4])
    assert np.array_equal(weights["block.conv1.weight"], before["block.conv1.weight"][kept])
    assert np.array_equal(weights["block.bn1.running_mean"], before["block.bn1.running_mean"][kept])
    assert np.array_equal(weights["block.conv2.weight"], before["block.conv2.weight"][:, kept])
    assert np.array_equal(weights["block.bn2.weight"], before["block.bn2.weight"])


def test_a_wider_layer_computes_what_it_did() -> None:
    source, wider = layers((8, 3), (8, 3)), layers((12, 3), (8, 3))
    model = sane_model(source)
    new, carry = transplant(source, wider, model.weights)
    child = child_of(model, Edit(Region.of(node.id for node in source), new, carry))
    assert np.ptp(child.weights["block.conv1.weight"][8:]) > 0, "new filters begin at random"
    x = random_inputs(source)
    torch.testing.assert_close(outputs(child, x), outputs(model, x))


def test_kernels_keep_their_middle() -> None:
    _, weights, before = after(layers((8, 3)), layers((8, 5)))
    assert np.array_equal(weights["block.conv1.weight"][:, :, 1:4, 1:4], before["block.conv1.weight"])
    assert np.count_nonzero(weights["block.conv1.weight"]) == before["block.conv1.weight"].size
    _, weights, before = after(layers((8, 3)), layers((8, 1)))
    assert np.array_equal(weights["block.conv1.weight"], before["block.conv1.weight"][:, :, 1:2, 1:2])


def test_a_deeper_chain_begins_as_the_shorter_one() -> None:
    child, weights, _ = after(layers((8, 3)), layers((8, 3), (8, 3)))
    (new,) = [node for node in child if node.op == "conv2d" and node.id != "block.conv1"]
    x = np.zeros((8, 8, 3, 3))
    x[range(8), range(8), 1, 1] = 1
    assert np.array_equal(weights[new.weights["weight"]], x)


RESIDUAL = """graph(x: f32[N,8,6,6]) {
  a = conv2d(x) {out_channels=8, kernel=(3, 3), padding=(1, 1)}
  n = batch_norm(a)
  r = relu(n)
  b = conv2d(r) {out_channels=8, kernel=(3, 3), padding=(1, 1)}
  m = batch_norm(b)
  s = add(m, x)
  y = relu(s)
  return y
}"""


def test_a_new_residual_branch_begins_as_nothing() -> None:
    b = Builder()
    source = b.build(b.add("relu", b.input("x", IMAGE), id="act"))
    model = sane_model(source)
    new, carry = transplant(source, parse(RESIDUAL), model.weights)
    child = child_of(model, Edit(Region.of(["act"]), new, carry))
    x = random_inputs(source)
    torch.testing.assert_close(outputs(child, x), outputs(model, x))
    assert carry["m.weight"] == Fresh("zeros")
    assert "a.weight" not in carry, "inside the branch nothing is special"


def test_one_branch_of_a_new_sum_speaks() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    branches = [b.add("conv2d", x, id=f"c{i}", out_channels=8, kernel=(1, 1)) for i in range(3)]
    replacement = b.build(b.add("add", *branches))
    b = Builder()
    source = b.build(b.add("relu", b.input("x", IMAGE), id="act"))
    _, carry = transplant(source, replacement, {})
    assert list(carry.values()) == [Fresh("identity"), Fresh("zeros"), Fresh("zeros")]


def test_a_norm_that_would_read_something_else_is_new() -> None:
    source = layers((8, 3))
    replacement = parse(
        "graph(x: f32[N,8,6,6]) {\n n = batch_norm(x)\n"
        " c = conv2d(n) {out_channels=8, kernel=(3, 3), padding=(1, 1)}\n return c\n}"
    )
    new, carry = transplant(source, replacement, {})
    assert carry == {"block.conv1.weight": Keep("block.conv1.weight"), "block.conv1.bias": Keep("block.conv1.bias")}
    assert "block.bn1" not in new


def test_shared_weights_are_shared_no_further() -> None:
    def twice(second: dict[str, str] | None) -> Graph:
        b = Builder()
        value = b.add("conv2d", b.input("x", IMAGE), id="one", out_channels=8, kernel=(1, 1))
        return b.build(b.add("conv2d", value, id="two", out_channels=8, kernel=(1, 1), weights=second))

    source = twice({"weight": "one.weight", "bias": "one.bias"})
    child, weights, before = after(source, twice(None))
    assert child["two"].weights["weight"] == "two.weight"
    assert np.array_equal(weights["two.weight"], before["one.weight"])
