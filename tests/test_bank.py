"""The segment bank: what is mined, how it is found, that a file round-trips, and that no damage goes unnamed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from contracts import GOLDEN_NAMES, golden

from netgraft import zoo
from netgraft.convert.from_torch import from_module
from netgraft.errors import GraphError, SourceError
from netgraft.ir import Batch, Builder, Graph, Signature, TensorType, Value
from netgraft.segments import Bank, Segment, Vocabulary, default, head, mine
from netgraft.segments.bpe import LONGEST

MODELS = [(name, golden(name)) for name in GOLDEN_NAMES]
VOCABULARY = Vocabulary.learn([graph for _, graph in MODELS] * 2, 400)
IMAGE = TensorType((Batch(), 8, 6, 6))


@pytest.fixture(scope="module")
def bank() -> Bank:
    return mine(MODELS, VOCABULARY)


@pytest.fixture
def file(bank: Bank, tmp_path: Path) -> Path:
    bank.save(tmp_path / "bank.jsonl")
    return tmp_path / "bank.jsonl"


def damaged(file: Path, line: int, text: str) -> Path:
    lines = file.read_text().splitlines()
    lines[line - 1] = text
    file.write_text("\n".join(lines))
    return file


def line_of(bank_file: Path, line: int) -> dict[str, object]:
    data: dict[str, object] = json.loads(bank_file.read_text().splitlines()[line - 1])
    return data


def test_segments_are_distinct_and_worth_grafting(bank: Bank) -> None:
    assert len({segment.digest for segment in bank}) == len(bank) > 20
    for segment in bank:
        ops = {node.op for node in segment.graph}
        assert 2 <= len(segment.graph) <= LONGEST
        assert ops & {"conv2d", "conv_transpose2d", "linear"}
        assert not ops & {"constant", "frozen"}


def test_mining_is_deterministic(bank: Bank) -> None:
    assert mine(MODELS, VOCABULARY) == bank


def test_frequent_segments_come_first_and_name_their_networks() -> None:
    bank = mine([*MODELS, ("again", golden("residual"))], VOCABULARY)
    frequencies = [segment.frequency for segment in bank]
    assert frequencies == sorted(frequencies, reverse=True)
    shared = [segment.provenance for segment in bank if len(segment.provenance) > 1]
    assert set(shared) == {("residual", "again")}


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
    assert all(node.op != "linear" for segment in bank for node in segment.graph)


def test_segments_are_found_by_signature(bank: Bank) -> None:
    for segment in bank:
        assert segment in bank.exact(segment.signature)
        assert segment in bank.alike(segment.signature)
    wider = Signature((IMAGE,), (TensorType((Batch(), 999, 3, 3)),))
    assert bank.exact(wider) == ()
    assert bank.alike(wider)
    assert all(len(s.graph.inputs) == len(s.graph.outputs) == 1 for s in bank.alike(wider))
    assert bank.alike(Signature((IMAGE,) * 5, (IMAGE,))) == ()


def test_a_file_round_trips(bank: Bank, file: Path, tmp_path: Path) -> None:
    again = Bank.load(file)
    assert again.vocabulary == bank.vocabulary
    assert [s.graph for s in again] == [s.graph for s in bank]
    again.save(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == file.read_bytes()


def test_a_loaded_segment_equals_the_mined_one(bank: Bank, file: Path) -> None:
    assert list(Bank.load(file)) == list(bank)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        "__import__('os').system('true')",
        '{"digest": "a", "inputs": ["f32[N,oops]"], "outputs": [], "provenance": [], "frequency": 1, "graph": ""}',
        '{"digest": "a", "inputs": "f32[N]", "outputs": [], "provenance": [], "frequency": 1, "graph": ""}',
        '{"digest": 3, "inputs": [], "outputs": [], "provenance": ["x"], "frequency": 1, "graph": ""}',
        '{"digest": "a", "inputs": [], "outputs": [], "provenance": ["x"], "frequency": "many", "graph": ""}',
    ],
)
def test_a_damaged_line_is_named(file: Path, text: str) -> None:
    with pytest.raises(SourceError, match=r"bank\.jsonl, line 3: "):
        Bank.load(damaged(file, 3, text))


def test_a_damaged_graph_is_named_when_it_is_used(file: Path) -> None:
    data = line_of(file, 3) | {"graph": "graph(x: f32[N,8,6,6]) {\n  y = nonsense(x)\n  return y\n}"}
    (segment,) = Bank.load(damaged(file, 3, json.dumps(data))).segments[1:2]
    with pytest.raises(GraphError, match=r"bank\.jsonl, line 3: line 2: .*nonsense"):
        _ = segment.graph


def test_a_graph_other_than_promised_is_refused(file: Path) -> None:
    data = line_of(file, 3) | {"graph": line_of(file, 4)["graph"]}
    (segment,) = Bank.load(damaged(file, 3, json.dumps(data))).segments[1:2]
    with pytest.raises(GraphError, match=r"bank\.jsonl, line 3: "):
        _ = segment.graph


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="segment bank 1"):
        Bank.load(damaged(file, 1, json.dumps(line_of(file, 1) | {"format": "something else"})))
    with pytest.raises(SourceError, match="cannot read"):
        Bank.load(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(SourceError, match="empty"):
        Bank.load(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\x80\x04\xff\xfe")
    with pytest.raises(SourceError, match="cannot read"):
        Bank.load(tmp_path / "binary.jsonl")


def test_constants_and_shared_weights_stay_where_they_are() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    once = b.add("conv2d", x, id="once", out_channels=8, kernel=(1, 1))
    twice = b.add("conv2d", once, out_channels=8, kernel=(1, 1), weights={"weight": "once.weight", "bias": "once.bias"})
    end = b.add("conv2d", b.add("relu", twice), id="end", out_channels=8, kernel=(1, 1))
    graph: Graph = b.build(Value(end.node))
    bank = mine([("shared", graph)], Vocabulary.learn([graph] * 2, 100))
    assert all(len({node.op for node in s.graph} & {"conv2d"}) == 1 and len(s.graph) == 2 for s in bank)


@pytest.fixture(scope="module")
def packaged() -> Bank:
    return default()


def test_the_packaged_bank_covers_the_zoo(packaged: Bank) -> None:
    networks = {name for segment in packaged for name in segment.provenance}
    assert networks <= set(zoo.names())
    assert len(packaged) > 500


def test_every_packaged_segment_is_what_its_line_promises(packaged: Bank) -> None:
    for segment in packaged:
        assert len(segment.graph) <= LONGEST
    assert len({segment.graph.digest for segment in packaged}) == len(packaged)


def test_the_benchmark_mines_small_networks_the_same_twice(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "mine_zoo_bank.py"
    spec = importlib.util.spec_from_file_location("mine_zoo_bank", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path in paths:
        module.bank(["vgg11", "squeezenet"]).save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(Bank.load(paths[0])) > 20


def test_packaged_segments_of_a_network_are_those_its_graph_gives(packaged: Bank) -> None:
    """Re-mining one network with the packaged vocabulary finds its share of the packaged bank."""
    torch.manual_seed(0)
    example = torch.zeros(2, *zoo.entry("squeezenet").input_shape)
    graph = from_module(zoo.build("squeezenet").eval(), (example,)).graph
    mined = {segment.digest for segment in mine([("squeezenet", graph)], packaged.vocabulary)}
    assert mined == {segment.digest for segment in packaged if "squeezenet" in segment.provenance}
