"""The segment bank: what is mined, how it is found, that a file round-trips, and that no damage goes unnamed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import GOLDEN_NAMES, golden

from netgraft import zoo
from netgraft.costs.analytic import flops, parameters
from netgraft.errors import GraphError, SourceError
from netgraft.ir import Batch, Builder, DType, Graph, Signature, TensorType, Value
from netgraft.mutations.graft import Graft
from netgraft.segments import Bank, Line, Segment, Vocabulary, default, head, load, merge, mine, save
from netgraft.segments.bpe import LONGEST
from netgraft.spaces.families import FAMILIES

MODELS = [(name, golden(name)) for name in GOLDEN_NAMES]
VOCABULARY = Vocabulary.learn([Line.of(graph) for _, graph in MODELS] * 2, 400)
IMAGE = TensorType((Batch(), 8, 6, 6))


@pytest.fixture(scope="module")
def bank() -> Bank:
    return mine(MODELS, VOCABULARY)


@pytest.fixture
def file(bank: Bank, tmp_path: Path) -> Path:
    save(bank, tmp_path / "my.bank")
    return tmp_path / "my.bank"


def bare(bank: Bank) -> list[Segment]:
    """The segments without where they were read."""
    return [replace(segment, place="") for segment in bank]


def test_segments_are_distinct_and_worth_grafting(bank: Bank) -> None:
    assert len({segment.digest for segment in bank}) == len(bank) > 20
    for segment in bank:
        graph = segment.graph
        assert 2 <= segment.nodes == len(graph) <= LONGEST
        assert segment.ops == {node.op for node in graph}
        assert not segment.ops & {"constant", "frozen"}
        assert any("conv" in op or "pool" in op or op in ("linear", "mean", "attention") for op in segment.ops)
        assert (segment.flops, segment.parameters) == (flops(graph), parameters(graph))
        assert (segment.digest, segment.signature) == (graph.digest, graph.signature)


def test_mining_finds_what_the_cuts_hold(bank: Bank) -> None:
    """Digests of regions taken straight from the graphs: where there is one input and one output, there is one way."""
    found = set()
    for number, (_, graph) in enumerate(MODELS):
        rng = np.random.default_rng((0, number))
        encoded = VOCABULARY.encode(graph)
        regions = encoded.cut(rng, sparsity=0, join=1) + [region for _ in range(8) for region in encoded.cut(rng)]
        for region in regions:
            segment = Segment.of(region.extract(graph))
            if not region.nodes & head(graph) and len(region.nodes) > 1 and "conv2d" in segment.ops:
                found.add(segment)

    def simple(segments: Iterable[Segment]) -> set[str]:
        ends = [(s, len(s.signature.inputs), len(s.signature.outputs)) for s in segments if "conv2d" in s.ops]
        return {s.digest for s, inputs, outputs in ends if inputs == outputs == 1}

    assert simple(found) == simple(bank)
    assert len(simple(bank)) >= 20


def test_mining_is_deterministic(bank: Bank) -> None:
    again = mine(MODELS, VOCABULARY)
    assert list(again) == list(bank)
    assert again.vocabulary == bank.vocabulary


def test_frequent_segments_come_first_and_name_their_networks() -> None:
    bank = mine([*MODELS, ("again", golden("residual"))], VOCABULARY)
    frequencies = [segment.frequency for segment in bank]
    assert frequencies == sorted(frequencies, reverse=True)
    shared = [segment.provenance for segment in bank if len(segment.provenance) > 1]
    assert set(shared) == {("residual", "again")}


def test_the_order_of_inputs_and_outputs_does_not_make_a_segment_another() -> None:
    """Three branches in whatever order are one segment, though their graphs have other signatures."""

    def network(branches: tuple[str, ...]) -> Graph:
        b = Builder()
        ends = []
        for i, op in enumerate(branches):
            width = {"relu": 4, "tanh": 6, "sigmoid": 8}[op]
            x = b.add("conv2d", b.input(f"x{i}", IMAGE), out_channels=width, kernel=(3, 3), padding=(1, 1))
            ends.append(b.add("conv2d", b.add(op, x), out_channels=8, kernel=(1, 1)))
        total = b.add("add", *ends)
        return b.build(b.add("linear", b.add("relu", total), out_features=3))

    graphs = [network(order) for order in permutations(["relu", "tanh", "sigmoid"])]
    vocabulary = Vocabulary.learn([Line.of(graphs[0])] * 2, 100)
    banks = [mine([("x", graph)], vocabulary) for graph in graphs]
    assert len(banks[0]) > 3
    assert any(len(segment.signature.inputs) > 1 for segment in banks[0])
    assert all({s.digest for s in bank} == {s.digest for s in banks[0]} for bank in banks)


def test_names_and_order_of_nodes_do_not_make_a_segment_another() -> None:
    def joined(first: str, second: str) -> Graph:
        b = Builder()
        x = b.input("x", IMAGE)
        return b.build(b.add("add", *[b.add(op, x, id=f"{first}.{op}") for op in (first, second)]))

    assert Segment.of(joined("relu", "tanh")).digest == Segment.of(joined("tanh", "relu")).digest


def test_heads_end_at_the_last_layer() -> None:
    assert head(golden("residual")) == {"head"}
    b = Builder()
    x = b.input("x", IMAGE)
    inner = b.add("relu", b.add("conv2d", x, id="inner", out_channels=8, kernel=(1, 1)))
    last = b.add("conv2d", inner, id="last", out_channels=8, kernel=(1, 1))
    graph = b.build(b.add("sub", x, b.add("tanh", last, id="tanh"), id="sub"))
    assert head(graph) == {"last", "tanh", "sub"}


def test_no_segment_holds_a_head() -> None:
    bank = mine([("residual", golden("residual"))], VOCABULARY)
    assert all("linear" not in segment.ops for segment in bank)


def place(inputs: list[TensorType], outputs: list[TensorType]) -> Signature:
    return Signature(tuple(inputs), tuple(outputs))


WIDE, LIST = TensorType((Batch(), 999, 3, 3)), TensorType((Batch(), 10))


def segment_of(inputs: int, outputs: int) -> Segment:
    """All outputs read all inputs."""
    b = Builder()
    given = [b.add("conv2d", b.input(f"x{i}", IMAGE), out_channels=8, kernel=(1, 1)) for i in range(inputs)]
    total = given[0] if inputs == 1 else b.add("add", *given)
    return Segment.of(b.build(*(b.add("mul_scalar", total, value=float(i)) for i in range(outputs))))


def test_segments_are_found_by_signature(bank: Bank) -> None:
    for segment in bank:
        assert segment in bank.exact(segment.signature)
        assert segment in bank.alike(segment.signature)
    narrow_first = place([IMAGE, WIDE], [IMAGE])
    assert list(bank.exact(place([WIDE], [WIDE]))) == []
    assert list(bank.exact(narrow_first)) == list(bank.exact(place([WIDE, IMAGE], [IMAGE])))
    alike = bank.alike(place([WIDE], [WIDE]))
    assert len(alike) > 10
    assert [s.digest for s in alike[2:4]] == [alike[2].digest, alike[3].digest]


def test_one_value_may_feed_several_inputs_and_one_output_be_read_in_several_places() -> None:
    segments = {(i, o): segment_of(i, o) for i in (1, 2, 3) for o in (1, 2, 3)}
    bank = Bank.of(segments.values(), Vocabulary((), ()))
    for inputs in (1, 2, 3):
        for outputs in (1, 2, 3):
            found = {s.digest for s in bank.alike(place([WIDE] * inputs, [IMAGE] * outputs))}
            assert found == {s.digest for (i, o), s in segments.items() if i >= inputs and o <= outputs}


def test_ranks_and_element_types_must_match() -> None:
    bank = Bank.of([segment_of(2, 1)], Vocabulary((), ()))
    assert len(bank.alike(place([WIDE, IMAGE], [IMAGE]))) == 1
    half = TensorType(IMAGE.shape, DType.F16)
    for inputs, outputs in ([LIST], [IMAGE]), ([WIDE, LIST], [IMAGE]), ([WIDE], [LIST]), ([half], [IMAGE]):
        assert len(bank.alike(place(inputs, outputs))) == 0


def test_a_bank_can_be_restricted_to_operations(bank: Bank) -> None:
    few = bank.only(["conv2d", "batch_norm", "relu"])
    assert 0 < len(few) < len(bank)
    assert list(few) == [s for s in bank if s.ops <= {"conv2d", "batch_norm", "relu"}]
    assert few.vocabulary == bank.vocabulary
    assert all(s in few for s in few.alike(place([IMAGE], [IMAGE])))
    assert len(bank.only(["tanh"])) == len(bank.only([])) == 0
    assert bank.opsets.total() == len(bank)
    assert few.opsets[frozenset({"conv2d", "relu"})] == bank.opsets[frozenset({"conv2d", "relu"})] > 0


def test_only_so_many_graphs_are_kept(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netgraft.segments.bank._KEPT", 5)
    few = Bank(bank.columns, bank.vocabulary)
    assert len([segment.graph for segment in few]) > 5 == len(few._made)
    assert few[3] is few[3]


def test_banks_merge() -> None:
    one, two = mine(MODELS[:2], VOCABULARY), mine([*MODELS[1:], ("more", MODELS[0][1])], VOCABULARY)
    both = merge([one, two])
    assert {s.digest for s in both} == {s.digest for s in one} | {s.digest for s in two}
    assert sum(s.frequency for s in both) == sum(s.frequency for s in one) + sum(s.frequency for s in two)
    assert {name for s in both for name in s.provenance} == {*GOLDEN_NAMES, "more"}
    assert both.vocabulary == VOCABULARY


def test_a_file_round_trips(bank: Bank, file: Path, tmp_path: Path) -> None:
    again = load(file)
    assert again.vocabulary == bank.vocabulary
    assert bare(again) == bare(bank)
    assert [s.graph for s in again] == [s.graph for s in bank]
    save(again, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def with_data(file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = json.loads(gzip.decompress(file.read_bytes()))
    change(data)
    file.write_bytes(gzip.compress(json.dumps(data).encode()))
    return file


def packed(content: bytes) -> bytes:
    """Compressed without the time of day: pytest names its cases by these bytes, alike in every process."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no segment bank"),
        (b"hello", "no segment bank"),
        (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "no segment bank"),
        (b"\x1f\x8b\x08garbage and more of it", "damaged"),
        (packed(b""), "damaged"),
        (packed(b"__import__('os').system('true')"), "damaged"),
        (packed(b"\xff\xfe\x00"), "damaged"),
        (packed(b"[" * 1_000_000), "damaged"),
        (packed(b"[" + b"9" * 10_000 + b"]"), "damaged"),
        (packed(b"[]"), "no segment bank"),
        (packed(b"{}"), "no segment bank"),
        (packed(b'{"format": "netgraft segment bank", "version": 1}'), "of version 1, and this"),
        (packed(b'{"format": "netgraft segment bank", "version": 2}'), "no list of"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "their.bank").write_bytes(content)
    with pytest.raises(SourceError, match=rf"their\.bank: .*{message}"):
        load(tmp_path / "their.bank")


def test_missing_files_are_named(tmp_path: Path) -> None:
    for path in tmp_path / "missing.bank", tmp_path:
        with pytest.raises(SourceError, match="there is no segment bank"):
            load(path)


def test_truncated_and_padded_files_are_refused(file: Path) -> None:
    whole = file.read_bytes()
    for size in (5, 15, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=r"my\.bank: the segment bank is cut short"):
            load(file)
    file.write_bytes(whole + b"more")
    with pytest.raises(SourceError, match="something follows"):
        load(file)
    file.write_bytes(whole[:100] + bytes([whole[100] ^ 255]) + whole[101:])
    with pytest.raises(SourceError, match="damaged"):
        load(file)


def test_bombs_do_not_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netgraft.segments.file._LARGEST", 1 << 20)
    (tmp_path / "bomb").write_bytes(gzip.compress(b" " * (64 << 20)))
    with pytest.raises(SourceError, match="unpacks to more than 1 MB"):
        load(tmp_path / "bomb")
    (tmp_path / "large").write_bytes(b"\x1f\x8b" + b" " * (1 << 21))
    with pytest.raises(SourceError, match="too many"):
        load(tmp_path / "large")


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"ab",', b"99999,", rb'"\"",[],'])
def test_small_values_in_great_number_are_not_read(
    tmp_path: Path, unit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netgraft.segments.file._MOST_VALUES", 1000)
    monkeypatch.setattr("netgraft.segments.file.json.loads", None)
    (tmp_path / "bomb").write_bytes(gzip.compress(b'{"format":[' + unit * 1000 + b"0]}"))
    with pytest.raises(SourceError, match="more values than a segment bank can"):
        load(tmp_path / "bomb")


def test_a_segment_of_unknown_origin_is_kept_and_grafted(tmp_path: Path) -> None:
    graph = golden(GOLDEN_NAMES[0])
    nameless = Bank.of([Segment.of(segment.graph) for segment in mine(MODELS[:1], VOCABULARY)], VOCABULARY)
    save(nameless, tmp_path / "nameless")
    assert bare(load(tmp_path / "nameless")) == bare(nameless)
    proposal = next(Graft(bank=nameless).proposals(graph, np.random.default_rng(0)))
    assert proposal.edit.origin.endswith("of unknown origin")


def test_a_bank_too_large_to_be_read_is_not_written(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netgraft.segments.file._LARGEST", 1000)
    with pytest.raises(SourceError, match="keep only segments that occur more often"):
        save(bank, tmp_path / "large.bank")
    assert not (tmp_path / "large.bank").exists()


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no list of tokens": lambda d: d.pop("tokens"),
    "its list of tokens holds something else": lambda d: d["tokens"].append(3),
    "holds an entry twice": lambda d: d["merges"].append(d["merges"][0]),
    "is no pair of numbers": lambda d: d["merges"].append(["a", "b"]),
    "cannot merge": lambda d: d["merges"].append([0, 1 << 30]),
    r"entry 1 of its signatures cannot be read": lambda d: d["signatures"].__setitem__(0, [["f32[N,oops]"], []]),
    r"entry 2 of its signatures cannot be read": lambda d: d["signatures"].__setitem__(1, "f32[N]"),
    "beyond all sense": lambda d: d["signatures"].__setitem__(0, [["f32[N,99999999,99999999]"], []]),
    "entry 1 of its opsets cannot be read": lambda d: d["opsets"].__setitem__(0, ["rm -rf"]),
    "entry 1 of its provenances cannot be read": lambda d: d["provenances"].__setitem__(0, [3]),
    "its digests are not": lambda d: d["digest"].__setitem__(1, d["digest"][0]),
    "its digests are": lambda d: d["digest"].__setitem__(1, "../../etc/passwd"),
    "its graphs are not": lambda d: d["graph"].pop(),
    "its list of graph holds": lambda d: d["graph"].__setitem__(0, {}),
    "its graphs are": lambda d: d["graph"].__setitem__(0, "x" * 100_000),
    "list of signature is not": lambda d: d["signature"].pop(),
    "the signature of segment 3 is out of bounds": lambda d: d["signature"].__setitem__(2, 10**6),
    "the ops of segment 1 is out of bounds": lambda d: d["ops"].__setitem__(0, -1),
    "list of provenance is not": lambda d: d["provenance"].__setitem__(0, True),
    "the nodes of segment 1": lambda d: d["nodes"].__setitem__(0, 17),
    "list of flops is not": lambda d: d["flops"].__setitem__(0, 1.5),
    "the parameters of segment 1": lambda d: d["parameters"].__setitem__(0, 1 << 40),
    "the frequency of segment 1": lambda d: d["frequency"].__setitem__(0, 0),
    "is damaged": lambda d: d["frequency"].__setitem__(0, 1 << 70),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damages_are_named(file: Path, message: str) -> None:
    with pytest.raises(SourceError, match=rf"my\.bank: .*{message}"):
        load(with_data(file, DAMAGES[message]))


def test_a_damaged_graph_is_named_when_it_is_used(file: Path) -> None:
    nonsense = "graph(x: f32[N,8,6,6]) {\n  y = nonsense(x)\n  return y\n}"
    bank = load(with_data(file, lambda d: d["graph"].__setitem__(1, nonsense)))
    assert bank[0].graph
    with pytest.raises(GraphError, match=r"my\.bank, segment 2: line 2: .*nonsense"):
        _ = bank[1].graph
    with pytest.raises(GraphError, match=r"my\.bank, segment 2"):
        bank.check()


def test_a_graph_other_than_promised_is_refused(file: Path) -> None:
    bank = load(with_data(file, lambda d: d["graph"].__setitem__(1, d["graph"][0])))
    with pytest.raises(GraphError, match=r"my\.bank, segment 2: the graph is not the"):
        _ = bank[1].graph
    bank = load(with_data(file, lambda d: d["parameters"].__setitem__(0, 1)))
    assert bank[0].graph  # what is counted is counted anew where it is grafted: only the check compares
    with pytest.raises(GraphError, match=r"my\.bank, segment 1: "):
        bank.check()


def test_constants_and_shared_weights_stay_where_they_are() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    once = b.add("conv2d", x, id="once", out_channels=8, kernel=(1, 1))
    twice = b.add("conv2d", once, out_channels=8, kernel=(1, 1), weights={"weight": "once.weight", "bias": "once.bias"})
    offset = b.add("constant", id="offset", type=TensorType((8, 1, 1)))
    moved = b.add("add", b.add("relu", twice), offset)
    end = b.add("conv2d", moved, id="end", out_channels=8, kernel=(1, 1))
    graph: Graph = b.build(Value(end.node))
    bank = mine([("shared", graph)], Vocabulary.learn([Line.of(graph)] * 2, 100), cuts=300)
    assert {tuple(node.op for node in s.graph) for s in bank} == {("conv2d", "relu"), ("conv2d", "relu", "add")}


def test_how_fast_statistics_move_is_no_part_of_a_segment() -> None:
    def network(momentum: float) -> Graph:
        b = Builder()
        x = b.add("conv2d", b.input("x", IMAGE), out_channels=8, kernel=(3, 3))
        x = b.add("relu", b.add("batch_norm", x, momentum=momentum))
        return b.build(b.add("linear", x, out_features=3))

    vocabulary = Vocabulary.learn([Line.of(network(0.1))] * 2, 100)
    bank = mine([(str(momentum), network(momentum)) for momentum in (0.003, 0.01, 0.1)], vocabulary)
    assert {s.provenance for s in bank} == {("0.003", "0.01", "0.1")}
    assert {n.attrs["momentum"] for s in bank for n in s.graph if n.op == "batch_norm"} == {0.1}


@pytest.fixture(scope="module")
def packaged() -> Bank:
    return default()


def test_the_packaged_bank_covers_the_zoo_and_the_families(packaged: Bank) -> None:
    networks = {name for names in packaged.columns.provenances for name in names}
    assert networks - FAMILIES.keys() == set(zoo.names())
    assert networks & FAMILIES.keys() == {"nasbench101", "nasbench201", "hiaml", "two_path", "inception"}


def test_packaged_segments_are_what_the_bank_promises(packaged: Bank) -> None:
    for segment in packaged[:: max(1, len(packaged) // 200)]:
        segment.check()
        assert 2 <= len(segment.graph) <= LONGEST
