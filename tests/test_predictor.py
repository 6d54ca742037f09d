"""The predictor: one score however a network is cut, each candidate its own, every operation known, and training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import everything
from strategies import edits, graphs, regions, renamed, reordered
from studies import SETTINGS, resnet, searched
from test_ir_ops import EXAMPLES, one_op
from typer.testing import CliRunner

from netgraft.cli import app
from netgraft.console import plain
from netgraft.costs.analytic import flops
from netgraft.errors import DataError, GraphError, StudyError
from netgraft.ir import OPS, Batch, Builder, Edit, Graph, Region, TensorType, apply
from netgraft.predictor import Label, Predictor, load, read_labels, save, train, write_labels
from netgraft.predictor.heads import _calibrated, normal_scores
from netgraft.predictor.paths import drawn, encode, read
from netgraft.predictor.traits import TOTALS, TRAITS, base_of, look
from netgraft.search import Predictor as Wanted
from netgraft.spaces import families

CELLS = families.nasbench201_cells()


def cell(index: int) -> Graph:
    return families.nasbench201(CELLS[index])


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load()


# Cuts


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_cut_of_a_network_gives_its_score(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    region = data.draw(regions(graph))
    predictor = load()
    whole, cut = predictor.scores([graph]), predictor.region(graph, region).unchanged()
    np.testing.assert_allclose(cut.mean, whole.mean, atol=1e-5)
    np.testing.assert_allclose(cut.deviation, whole.deviation, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_replacement_scores_as_the_child_does(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    edit = data.draw(edits(graph))
    predictor = load()
    cut = predictor.region(graph, edit.region)
    said, child = cut.replacements([edit.replacement]), predictor.scores([apply(graph, edit)])
    np.testing.assert_allclose(said.mean, child.mean, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_names_and_order_do_not_matter(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    predictor = load()
    same = predictor.scores([graph, renamed(graph), data.draw(reordered(graph))]).mean
    np.testing.assert_allclose(same, same[0], atol=1e-5)


@pytest.mark.parametrize("index", [1, 3, 9, 5000])
def test_cuts_of_large_networks(predictor: Predictor, index: int) -> None:
    """Also where an edge or the whole cell is zero, and where only half of what a node returns is cut out."""
    graph = cell(index)
    whole = predictor.scores([graph]).mean
    rng = np.random.default_rng(index)
    for _ in range(12):
        start, size = rng.integers(len(graph)), rng.integers(1, 90)
        region = Region.of(node.id for node in graph.nodes[start : start + size])
        np.testing.assert_allclose(predictor.region(graph, region).unchanged().mean, whole, atol=1e-5)


def test_long_segments_are_scored_by_logarithms(predictor: Predictor) -> None:
    """What no float can hold as a product: hundreds of layers in one region."""
    b = Builder()
    x = b.input("x", TensorType((Batch(), 8, 32, 32)))
    for _ in range(400):
        x = b.add("add", b.add("conv2d", x, out_channels=8, kernel=(5, 5), padding=(2, 2)), x)
    graph = b.build(b.add("relu", x))
    for nodes in (graph.nodes[1:-1], graph.nodes[300:420]):
        cut = predictor.region(graph, Region.of(node.id for node in nodes))
        np.testing.assert_allclose(cut.unchanged().mean, predictor.scores([graph]).mean, atol=1e-5)


def test_a_region_that_is_not_convex(predictor: Predictor) -> None:
    graph = resnet()
    with pytest.raises(GraphError, match="convex"):
        predictor.region(graph, Region.of(["stem.conv", "stem.relu"]))


# Candidates


def segments_of(graph: Graph, region: Region) -> list[Graph]:
    """Segments that differ in depth, wiring and operations, all with the region's signature."""
    (given,), (returned,) = region.signature(graph).inputs, region.signature(graph).outputs
    assert given == returned
    found = []
    for depth in range(1, 9):
        for op in ("relu", "silu", "batch_norm", "max_pool2d", "conv2d"):
            b = Builder()
            x = first = b.input("in", given)
            for _ in range(depth):
                match op:
                    case "max_pool2d":
                        x = b.add(op, x, kernel=(3, 3), stride=(1, 1), padding=(1, 1))
                    case "conv2d":
                        x = b.add(op, x, out_channels=given.concrete()[1], kernel=(3, 3), padding=(1, 1))
                    case _:
                        x = b.add(op, x)
            found.append(b.build(b.add("add", x, first, x) if depth % 2 else x))
    return found


def test_each_candidate_gets_its_own_score(predictor: Predictor) -> None:
    """AutoGO's search gave the scores of a shuffled loader to candidates in their old order."""
    graph = cell(1)
    region = Region.of(["stage1.cell2.o1.relu", "stage1.cell2.o1.conv", "stage1.cell2.o1.bn"])
    cut = predictor.region(graph, region)
    segments = segments_of(graph, region)
    alone = np.array([predictor.region(graph, region).replacements([segment]).mean[0] for segment in segments])
    assert len(np.unique(alone.round(6))) > len(segments) // 2
    rng = np.random.default_rng(0)
    for order in (rng.permutation(len(segments)), rng.integers(len(segments), size=300)):
        said = cut.replacements([segments[i] for i in order])
        np.testing.assert_allclose(said.mean, alone[order], atol=1e-5)
    assert cut.replacements([]).mean.shape == (0,)


def test_the_gain_of_no_change_is_none(predictor: Predictor) -> None:
    graph = cell(1)
    region = Region.of(["stage1.cell2.o1.conv"])
    cut = predictor.region(graph, region)
    assert cut.replacements([region.extract(graph)]).mean[0] == cut.unchanged().mean[0]


def test_a_segment_of_another_signature(predictor: Predictor) -> None:
    graph = cell(1)
    cut = predictor.region(graph, Region.of(["stem.conv"]))
    with pytest.raises(GraphError, match="does not fit a region"):
        cut.replacements([Region.of(["stage1.cell2.o1.conv"]).extract(graph)])


def test_two_predictors_share_segments(predictor: Predictor) -> None:
    """What is kept beside a segment belongs to one predictor."""
    other = Predictor(drawn(predictor.encoder.channels, seed=7), predictor.heads, predictor.beyond)
    graph = cell(1)
    region = Region.of(["stage1.cell2.o1.conv"])
    segment = region.extract(graph)
    for one in (predictor, other, predictor):
        said = one.region(graph, region).replacements([segment]).mean
        np.testing.assert_allclose(said, one.scores([graph]).mean, atol=1e-5)


# Operations


@pytest.mark.parametrize("op", OPS)
def test_every_operation_is_scored(predictor: Predictor, op: str) -> None:
    shapes, attrs = EXAMPLES[op]
    graph = one_op(op, *shapes, **attrs)
    said = predictor.scores([graph])
    assert np.isfinite([said.mean, said.deviation]).all() and said.deviation[0] > 0
    np.testing.assert_allclose(predictor.region(graph, Region.of(["node"])).unchanged().mean, said.mean, atol=1e-5)


@pytest.mark.parametrize("op", sorted(OPS.keys() - {"identity", "add_scalar", "mul_scalar", "constant"}))
def test_every_operation_is_seen(op: str) -> None:
    """But those that leave a network what it was, and those that only change its shapes."""
    shapes, attrs = EXAMPLES[op]
    encoder = drawn(8)
    names = [f"x{i}" for i in range(len(shapes))]
    bare = Builder()
    values = [bare.input(name, TensorType(shape)) for name, shape in zip(names, shapes, strict=True)]
    assert not np.array_equal(read(encoder, one_op(op, *shapes, **attrs)), read(encoder, bare.build(*values)))


@pytest.mark.parametrize("sides", [1, 3])
@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("conv{}d", {"out_channels": 16, "kernel": 3, "stride": 2, "dilation": 2, "groups": 2}),
        ("conv{}d", {"out_channels": 8, "kernel": 3, "groups": 8}),
        ("conv{}d", {"out_channels": 4, "kernel": 1}),
        ("conv_transpose{}d", {"out_channels": 4, "kernel": 2, "stride": 2}),
        ("avg_pool{}d", {"kernel": 3, "stride": 2}),
        ("max_pool{}d", {"kernel": 2, "stride": 2}),
    ],
)
def test_signals_and_volumes_are_seen_as_images_are(sides: int, op: str, attrs: dict[str, int]) -> None:
    """Window, stride, growth, width and scale, of maps with half the side of what enters; and the work that it is."""

    def seen(sides: int) -> tuple[np.ndarray, float, int]:
        b = Builder()
        x = b.input("x", TensorType((Batch(), 8, *(16,) * sides)))
        x = b.add(f"max_pool{sides}d", x, kernel=(2,) * sides, stride=(2,) * sides)
        given = {k: (v,) * sides if k in ("kernel", "stride", "dilation") else v for k, v in attrs.items()}
        graph = b.build(b.add(op.format(sides), x, id="node", **given))
        node = graph["node"]
        found = look(node, graph.input_types(node), graph.output_types(node), base_of(graph))
        return found.traits, found.totals[TOTALS["flops"]], flops(graph)

    (traits, work, counted), (images, *_) = seen(sides), seen(2)
    np.testing.assert_allclose(traits, images)
    if "pool" not in op:
        assert 2 * work == counted > 0


def test_channels_are_read_where_a_layer_has_them() -> None:
    """A linear layer on maps [N, height, width, C] is a 1x1 convolution on [N, C, height, width]."""

    def seen(op: str, shape: tuple[int, ...], **attrs: object) -> np.ndarray:
        b = Builder()
        x = b.input("x", TensorType((Batch(), *shape)))
        graph = b.build(b.add(op, x, id="node", **attrs))
        node = graph["node"]
        found = look(node, graph.input_types(node), graph.output_types(node), (0, 32, 0))
        return np.array([found.traits[TRAITS[name]] for name in ("growth", "width", "mixing@2")] + [*found.totals[2:4]])

    last = seen("linear", (8, 8, 16), out_features=64, bias=False)
    np.testing.assert_allclose(last, seen("conv2d", (16, 8, 8), out_channels=64, kernel=(1, 1), bias=False))


def test_a_signal_may_come_into_a_network_of_sequences(predictor: Predictor) -> None:
    """What scales are counted from is the same with and without a graft that reads three axes as a signal."""
    b = Builder()
    x = b.add("linear", b.input("x", TensorType((Batch(), 8, 16))), id="first", out_features=16)
    graph = b.build(b.add("linear", b.add("relu", x, id="relu"), id="last", out_features=16))
    s = Builder()
    segment = s.add("conv1d", s.input("in", TensorType((Batch(), 8, 16))), out_channels=8, kernel=(3,), padding=(1,))
    edit = Edit(Region.of(["relu"]), s.build(segment))
    said = predictor.region(graph, edit.region).replacements([edit.replacement])
    np.testing.assert_allclose(said.mean, predictor.scores([apply(graph, edit)]).mean, atol=1e-5)


def test_frozen_operations_are_told_apart_by_name() -> None:
    shapes, attrs = EXAMPLES["frozen"]
    encoder = drawn(8)
    found = {
        read(encoder, one_op("frozen", *shapes, **attrs | {"target": f"aten.{name}.default"})).tobytes()
        for name in ("roll", "flip", "cumsum", "sort", "erf", "log", "sin", "cos")
    }
    assert len(found) > 1


def test_everything_at_once_and_any_size_of_map(predictor: Predictor) -> None:
    assert np.isfinite(predictor.scores([everything()]).mean).all()
    for size in (1, 2, 33, 1024):
        b = Builder()
        x = b.add("conv2d", b.input("x", TensorType((Batch(), 3, size, size))), out_channels=8, kernel=(1, 1))
        assert np.isfinite(predictor.scores([b.build(x)]).mean).all()


def test_paths_are_counted() -> None:
    """The first channel is the logarithm of their number; a zero leaves none."""
    graph, encoder = resnet(3), drawn(4)
    assert encode(encoder, graph).paths[0] == pytest.approx(9 * np.log(2))
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 8, 8)))
    dead = b.build(b.add("relu", b.add("mul_scalar", x, value=0.0)))
    assert encode(encoder, dead).paths[0] < -1e6
    assert np.isnan(read(encoder, dead)[0]) and read(encoder, dead)[-1] == 0


def test_depth_is_the_mean_number_of_activations_on_a_path() -> None:
    b = Builder()
    x = stem = b.input("x", TensorType((Batch(), 3, 8, 8)))
    for op in ("relu", "gelu", "batch_norm", "relu"):
        x = b.add(op, x)
    graph = b.build(b.add("add", x, stem))
    assert np.expm1(read(drawn(4), graph)[-1]) == pytest.approx((3 + 0) / 2, rel=1e-2)


# Training


def labelled(count: int, seed: int = 0) -> list[Label]:
    """Cells whose score is their number of convolutions, as real as a test can have it without data."""
    rng = np.random.default_rng(seed)
    found = []
    for index in rng.choice(len(CELLS), count, replace=False).tolist():
        graph = cell(index)
        found.append(Label("convolutions", float(sum(node.op == "conv2d" for node in graph)), graph))
    return found


@pytest.fixture(scope="module")
def labels() -> list[Label]:
    return labelled(60)


def test_what_is_learned_holds_for_others(labels: list[Label]) -> None:
    predictor = train(labels[:40], heads=4)
    said = predictor.scores(label.graph for label in labels[40:])
    truth = [label.score for label in labels[40:]]
    assert np.corrcoef(said.mean, truth)[0, 1] > 0.9
    figures = predictor.card["groups"]["convolutions"]
    assert figures["networks"] == 40 and figures["rank_correlation"] > 0.8


def test_the_same_seed_trains_the_same(labels: list[Label]) -> None:
    one, two, other = (train(labels[:20], seed, heads=2) for seed in (3, 3, 4))
    assert one.digest == two.digest != other.digest


def test_a_score_counts_within_its_group_alone(labels: list[Label]) -> None:
    scores = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    found = normal_scores(["a"] * 3 + ["b"] * 3, scores)
    np.testing.assert_allclose(found[:3], found[3:])
    assert found[0] < found[1] == 0 < found[2]
    shifted = [Label("far", 1000 + label.score, label.graph) for label in labels[:10]]
    predictor = train([*labels[10:40], *shifted], heads=2)
    assert set(predictor.card["groups"]) == {"convolutions", "far"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [(slice(0), "no labels to train on"), (slice(5), "5 labels are too few to train on: 16 are the least")],
)
def test_too_little_to_learn_from(labels: list[Label], chosen: slice, message: str) -> None:
    with pytest.raises(DataError, match=message):
        train(labels[chosen])
    with pytest.raises(DataError, match="nothing to learn"):
        train([Label("g", 1.0, label.graph) for label in labels[:20]])


@pytest.mark.parametrize("index", [1, 10])
def test_most_labels_may_be_of_one_network(labels: list[Label], index: int) -> None:
    """All of them are in one fold: the head that does not see it has few others. 10 is a network without any path."""
    rng = np.random.default_rng(0)
    often = [Label("convolutions", rng.normal(5.0), cell(index)) for _ in range(80)]
    predictor = train([*often, *labels[:20]], heads=3)
    assert np.isfinite(predictor.scores([label.graph for label in labels]).mean).all()
    with pytest.raises(DataError, match="look the same"):
        train(often, heads=3)


def test_heads_that_disagree_are_never_certain_of_a_gain() -> None:
    """Also where their disagreement says nothing of their errors, or the opposite."""
    assert (_calibrated(np.array([4.0, 1.0, 0.1]), np.array([0.1, 1.0, 4.0])) > 0).all()


# Beyond what was learned from


def wide(width: int, depth: int) -> Graph:
    """A network unlike any cell."""
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 32, 32)))
    for _ in range(depth):
        x = b.add(
            "silu", b.add("group_norm", b.add("conv2d", x, out_channels=width, kernel=(7, 7), padding=(3, 3)), groups=4)
        )
    return b.build(b.add("linear", b.add("mean", x, dims=(2, 3)), out_features=10))


def test_what_is_like_the_labels_is_left_to_the_heads(labels: list[Label]) -> None:
    predictor = train(labels[:40], heads=4)
    features = np.array([read(predictor.encoder, label.graph) for label in labels[:40]])
    shares = predictor.beyond.shares(predictor.beyond.places(features))
    assert (shares == 1).all()
    np.testing.assert_array_equal(predictor.estimate(features).mean, predictor.heads.estimate(features).mean)


def test_far_away_the_larger_network_is_better_and_less_is_certain(labels: list[Label]) -> None:
    """Also where labels say the opposite: then nothing is said."""
    graphs = [wide(32, 2), wide(64, 2), wide(64, 4)]
    predictor = train(labels[:40], heads=4)
    near, far = predictor.scores([label.graph for label in labels[40:]]), predictor.scores(graphs)
    assert (np.diff(far.mean) > 0).all()
    assert far.deviation.min() > near.deviation.max()
    contrary = train([Label("g", -label.score, label.graph) for label in labels[:40]], heads=2)
    assert (contrary.beyond.size[1:] >= 0).all()


def test_gains_are_differences_of_scores_far_away_too(labels: list[Label]) -> None:
    predictor, graph = train(labels[:40], heads=4), wide(64, 4)
    region = Region.of(node.id for node in graph.nodes[4:5])
    segments = segments_of(graph, region)
    cut = predictor.region(graph, region)
    gains, scores = cut.gains(segments), cut.replacements(segments)
    np.testing.assert_allclose(gains.mean, scores.mean - cut.unchanged().mean, atol=1e-5)
    assert (gains.deviation < np.hypot(scores.deviation, cut.unchanged().deviation) + 1e-6).all()
    none = cut.gains([region.extract(graph)])
    assert none.mean[0] == none.deviation[0] == 0


def test_each_of_two_groups_that_lie_apart_is_near(labels: list[Label]) -> None:
    """A small one beside a large one too, whose order is learned as well; what is far from both is not near."""
    small = [Label("wide", float(-n), wide(16 + 4 * n, 4 + n % 3)) for n in range(16)]
    predictor = train([*labels[:40], *small], heads=4)
    for group in (labels[:40], small):
        features = np.array([read(predictor.encoder, label.graph) for label in group])
        assert (predictor.beyond.shares(predictor.beyond.places(features)) == 1).all()
        assert np.corrcoef(predictor.estimate(features).mean, [label.score for label in group])[0, 1] > 0.8
    elsewhere = read(predictor.encoder, everything())[None]
    assert predictor.beyond.shares(predictor.beyond.places(elsewhere))[0] < 0.5


def test_a_study_is_training_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = SETTINGS | {"examples": "1" * 16, "network": "2" * 16}
    with searched(tmp_path / "first", ran) as study:
        expected = [t.scores["quality"] for t in study.trials.values() if t.model]
    found = list(read_labels(tmp_path / "first"))
    (group,) = {label.group for label in found}
    assert [label.score for label in found] == expected and group.startswith("first ")
    monkeypatch.chdir(tmp_path / "first")
    assert {label.group for label in read_labels(Path())} == {group}, "however the folder is named"
    for other, said in {"a": ran, "b": ran | {"examples": "3" * 16}, "c": ran | {"network": "3" * 16}}.items():
        (tmp_path / other).mkdir()
        searched(tmp_path / other / "first", said).close()
        assert ({label.group for label in read_labels(tmp_path / other / "first")} == {group}) == (other == "a")
    searched(tmp_path / "unknown").close()
    with pytest.raises(StudyError, match=r"run\.json does not say on what data"):
        list(read_labels(tmp_path / "unknown"))
    assert found[0].graph.digest == study.trials[0].digest
    with pytest.raises(DataError, match="too few"):
        train(found)


# Files and commands


def netgraft(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["predictor", *map(str, arguments)], env={"COLUMNS": "80"})
    return result.exit_code, result.output


def test_train_show_and_score(tmp_path: Path, labels: list[Label]) -> None:
    with (tmp_path / "labels.jsonl").open("w") as file:
        write_labels(file, iter(labels[:24]))
    out = tmp_path / "my.predictor"
    code, output = netgraft("train", tmp_path, "--out", out, "--heads", 2)
    assert code == 0, output
    assert "convolutions" in output and "24" in output
    assert netgraft("show", out) == (0, output)
    first = out.read_bytes()
    assert netgraft("train", tmp_path, "--out", out, "--heads", 2)[0] == 0
    assert out.read_bytes() == first
    code, output = netgraft("score", "family:hiaml?count=2", "zoo:resnet20", "--predictor", out)
    assert code == 0 and "resnet20" in output and output.count("hiaml") == 2
    (tmp_path / "labels.jsonl").write_text('{"group": "g"}')
    code, output = netgraft("train", tmp_path, "--out", out)
    assert code == 2 and "labels.jsonl, line 1: 'score' is missing" in output.replace("\n", "")
    assert out.read_bytes() == first and [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert netgraft("train", tmp_path, "--out", tmp_path)[0] == 2


def test_an_interrupted_training_leaves_no_file(
    tmp_path: Path, labels: list[Label], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with (tmp_path / "labels.jsonl").open("w") as file:
        write_labels(file, iter(labels[:20]))
    monkeypatch.setattr("torch.optim.lr_scheduler.OneCycleLR.step", stop)
    code, output = netgraft("train", tmp_path, "--out", tmp_path / "my.predictor")
    assert (code, output.strip()) == (130, "interrupted")
    assert [p.name for p in tmp_path.iterdir()] == ["labels.jsonl"]


def test_files_say_what_was_written(tmp_path: Path, predictor: Predictor) -> None:
    save(predictor, tmp_path / "a")
    again = load(tmp_path / "a")
    assert again.digest == predictor.digest and again.card == predictor.card
    graph = resnet()
    np.testing.assert_array_equal(again.scores([graph]).mean, predictor.scores([graph]).mean)
    save(again, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    wanted: Wanted = predictor
    assert wanted.digest == predictor.digest


def test_what_is_shipped(predictor: Predictor) -> None:
    path = Path(__file__).parents[1] / "netgraft" / "predictor" / "shipped.predictor"
    assert path.stat().st_size < 5e6
    assert netgraft("show")[0] == 0
    assert predictor.card["groups"]


def damaged(arrays: dict[str, np.ndarray], name: str, array: np.ndarray | None) -> dict[str, np.ndarray]:
    return {**arrays, name: array} if array is not None else {k: v for k, v in arrays.items() if k != name}


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("noise", None, "'noise' is missing"),
        ("noise", np.array([np.nan, 0.0]), "holds what is no number"),
        ("noise", np.array([1, 2]), "holds what is no number"),
        ("noise", np.array([-1.0, 1.0]), "noise must be above 0"),
        ("noise", np.array([1.0, 0.0]), "noise must be above 0"),
        ("spread", np.zeros(load().heads.spread.shape), "spread must be above 0"),
        ("noise", np.array(1.0), "noise has the shape"),
        ("encoder.node", np.array(1.0), "has the shape"),
        ("second_bias", np.array(1.0, np.float32), "has the shape"),
        ("second", np.zeros((3, 3), np.float32), "second has the shape"),
        ("encoder.node", np.zeros((0, 3)), "has the shape"),
        ("second_bias", np.zeros(3, np.float32), "has the shape"),
        ("beyond.units", np.zeros(len(load().beyond.units)), "beyond.units must be above 0"),
        ("beyond.groups", np.array(1.0, np.float32), "beyond.groups has the shape"),
        ("beyond.whiten", np.zeros((3, 3), np.float32), "beyond.whiten has the shape"),
        ("beyond.size", None, "'beyond.size' is missing"),
        ("more", np.zeros(3), "'more' is missing or not expected"),
    ],
)
def test_damaged_files(tmp_path: Path, predictor: Predictor, name: str, array: np.ndarray | None, message: str) -> None:
    save(predictor, tmp_path / "whole")
    with safetensors.safe_open(tmp_path / "whole", "numpy") as file:
        metadata = file.metadata()
    arrays = {k: np.asarray(v, order="C") for k, v in predictor.arrays().items()}
    safetensors.numpy.save_file(damaged(arrays, name, array), tmp_path / "x", metadata)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "x")


def test_files_that_are_none(tmp_path: Path, predictor: Predictor) -> None:
    for content in (b"", b"no predictor", safetensors.numpy.save({"a": np.zeros(3)})):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DataError, match="x"):
            load(tmp_path / "x")
    with pytest.raises(DataError, match="cannot read"):
        load(tmp_path / "missing")
    arrays = {k: np.asarray(v, order="C") for k, v in predictor.arrays().items()}
    for said in ({"format": "netgraft predictor 9", "card": "{}"}, {"format": "netgraft predictor 2", "card": "[]"}):
        safetensors.numpy.save_file(arrays, tmp_path / "x", {"netgraft": json.dumps(said)})
        with pytest.raises(DataError, match=r"format|is no predictor"):
            load(tmp_path / "x")


@pytest.mark.parametrize(
    "card", ["a card", {"groups": []}, {"groups": {"g": {}}}, {"groups": {"g": {"networks": "9"}}}]
)
def test_a_damaged_model_card(tmp_path: Path, predictor: Predictor, card: object) -> None:
    save(Predictor(predictor.encoder, predictor.heads, predictor.beyond, card), tmp_path / "my.predictor")  # type: ignore[arg-type]
    code, output = netgraft("show", tmp_path / "my.predictor")
    assert code == 2 and "my.predictor: the model card does not say" in output.replace("\n", "")


def test_names_of_strangers_are_shown_as_they_are() -> None:
    assert plain("[red]a\x1b[2J\nb") == r"\[red]a?[2J?b"
