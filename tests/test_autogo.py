"""Reading AutoGO's and GENNAPE's files: published counts, what their importer lost, and files made to do harm."""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import outputs, random_inputs, sane_model
from test_families import INCEPTION_BEST, NB101_BEST, NB201_BEST, TWO_PATH_BEST
from typer.testing import CliRunner

from netgraft import sources
from netgraft.cli import app
from netgraft.convert import autogo
from netgraft.convert.autogo import autogo_entries, load_autogo
from netgraft.costs.analytic import parameters
from netgraft.costs.autogo import autogo_flops
from netgraft.errors import SourceError
from netgraft.ir import Batch, Builder, Graph, TensorType, Value, untrained
from netgraft.spaces import families

INDEX = {
    "batch_norm": 5, "relu": 6, "relu6": 7, "linear": 8, "add": 9, "mul": 10, "concat": 11, "max_pool2d": 12,
    "avg_pool2d": 13, "sigmoid": 14, "tanh": 15, "silu": 16, "gelu": 17, "mean": 19, "identity": 25,
}  # fmt: skip


def hwc(type_: TensorType) -> tuple[int, int, int]:
    shape = type_.concrete()
    return (shape[2], shape[3], shape[1]) if len(shape) == 4 else (1, 1, shape[1])


def as_autogo(graph: Graph) -> dict[str, Any]:
    """A graph as AutoGO's importer would have it: no slices, and edges that know no order."""
    nodes: list[tuple[bool, dict[str, Any]]] = []
    place: dict[Value, int] = {}
    edges = []

    def put(name: str, op: int, given: Any, gives: Any, inputs: Any = (), weighted: bool = False, **more: Any) -> int:
        number = len(nodes)
        (h, w, c), (ho, wo, co) = given, gives
        node = {"str_id": f"{3 * number}|net/{name.replace('.', '/')}", "op_type_idx": op, "label": name}
        node |= {"resolution": (h, ho, w, wo, c, co), "strides": None, "metadata": None, **more}
        nodes.append((weighted, node))
        edges.extend((place[value], number) for value in dict.fromkeys(inputs))
        return number

    for given in graph.inputs:
        place[Value(given.id)] = put(given.id, 1, hwc(given.type), hwc(given.type))
    for node in graph:
        if node.op == "slice":
            place[node.value()] = place[node.inputs[0]]
            continue
        given, gives, attrs = hwc(graph.types[node.inputs[0]]), hwc(graph.types[node.value()]), node.attrs
        more: dict[str, Any] = {}
        op = INDEX.get(node.op, 3)
        if node.op == "conv2d":
            op = 4 if attrs["groups"] > 1 else 3
            metadata = {
                "dilations": (1, *attrs["dilation"], 1),
                "padding": "same" if any(attrs["padding"]) else "valid",
            }
            metadata |= {"use_bias": True} if attrs["bias"] else {}
            more = {"strides": (1, *attrs["stride"], 1), "shape": [0.1, 64, *attrs["kernel"]], "metadata": metadata}
        elif node.op == "linear":
            more = {"shape": [1, 1, 0, 0], "metadata": {"use_bias": True} if attrs["bias"] else {}}
        elif "pool" in node.op:
            metadata = {"ksize": (1, *attrs["kernel"], 1), "padding": "same" if any(attrs["padding"]) else "valid"}
            more = {"strides": [1, *attrs["stride"], 1], "metadata": metadata}
        place[node.value()] = put(node.id, op, given, gives, node.inputs, "shape" in more, **more)
    for value in graph.outputs:
        put("output", 2, hwc(graph.types[value]), hwc(graph.types[value]), [value])
    order = sorted(range(len(nodes)), key=lambda i: not nodes[i][0])
    new = {old: position for position, old in enumerate(order)}
    pairs = [[new[a], new[b]] for a, b in edges]
    random.Random(0).shuffle(pairs)
    return {
        "name": "Net7",
        "input_shape": (1, 32, 32, 3),
        "edge_pairs": pairs,
        "weighted_nodes": [node for weighted, node in nodes if weighted],
        "regular_nodes": [node for weighted, node in nodes if not weighted],
        "n_weighted_nodes": 0,
    }


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with the three classes of AutoGO's, for pickle to name."""
    name = "model_src.comp_graph.tf_comp_graph"
    module = types.ModuleType(name)
    for cls in ("ComputeGraph", "RegularNode", "WeightedNode"):
        setattr(module, cls, type(cls, (), {"__module__": name}))
    for parent in ("model_src", "model_src.comp_graph"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)
    return module


def instance(classes: types.ModuleType, cg: Mapping[str, Any]) -> Any:
    def made(cls: str, state: Mapping[str, Any]) -> Any:
        instance = getattr(classes, cls)()
        vars(instance).update(state)
        return instance

    lists = {kind: [made(cls, node) for node in cg[kind]] for kind, cls in KINDS.items()}
    return made("ComputeGraph", {**cg, **lists})


KINDS = {"weighted_nodes": "WeightedNode", "regular_nodes": "RegularNode"}


@pytest.fixture
def write(classes: types.ModuleType, tmp_path: Path) -> Any:
    """Writes a graph's description as a pickle."""

    def write(cg: Mapping[str, Any], protocol: int = 4) -> Path:
        path = tmp_path / "net.pkl"
        path.write_bytes(pickle.dumps(instance(classes, cg), protocol))
        return path

    return write


def plain(graph: Graph) -> Graph:
    """A graph without what the files do not hold: eps and momentum of batch norms."""
    b = Builder()
    new = {Value(given.id): b.input(given.id, given.type) for given in graph.inputs}
    for node in graph:
        attrs = {} if node.op == "batch_norm" else node.attrs
        new[node.value()] = b.add(node.op, *(new[v] for v in node.inputs), id=node.id, **attrs)
    return b.build(*(new[v] for v in graph.outputs))


def same(one: Graph, other: Graph) -> bool:
    """Whether two graphs are the same but for what the files do not hold."""
    return plain(one).digest == plain(other).digest


def small() -> Graph:
    """A bit of everything, with operands whose order matters."""
    b = Builder()
    x = b.input("x", TensorType((Batch(), 4, 9, 7)))
    a = b.add("conv2d", x, id="a", out_channels=6, kernel=(3, 1), stride=(2, 1), padding=(1, 0), bias=True)
    c = b.add(
        "conv2d", x, id="c", out_channels=6, kernel=(3, 3), stride=(2, 1), padding=(2, 2), dilation=(2, 2), bias=False
    )
    d = b.add("conv2d", c, id="d", out_channels=6, kernel=(3, 3), padding=(1, 1), groups=6, bias=False)
    pool = b.add("max_pool2d", d, id="p", kernel=(3, 3), stride=(1, 1), padding=(1, 1))
    y = b.add("concat", b.add("gelu", pool, id="g"), b.add("batch_norm", a, id="n"), b.add("silu", a, id="s"), id="cat")
    y = b.add("avg_pool2d", y, id="q", kernel=(2, 2), stride=(2, 2), count_include_pad=False)
    y = b.add("mul", b.add("sigmoid", y, id="gate"), b.add("tanh", y, id="t"), id="m")
    y = b.add("identity", b.add("mean", y, id="mean", dims=(2, 3)), id="i")
    return b.build(b.add("linear", y, id="head", out_features=5, bias=False))


def error(path: Path) -> str:
    """The message with which a file is refused, one line of it."""
    with pytest.raises(SourceError) as caught:
        load_autogo(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# What is published

PUBLISHED = {
    "hiaml_best": (107, 246314516, 2220746),
    "two_path_best": (56, 116200468, 1780362),
    "nb201_best": (306, 312767892, 1038394),
    "inception_best": (403, 493881364, 3537898),
    "nb101_best": (225, 11722075156, 39810442),
    "resnet50": (152, 6306482512, 24113256),
    "resnet101": (322, 13785516368, 43131496),
    "vgg16_bn": (48, 30805729232, 15236136),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_graphs_have_their_counts(shared_data: Path, name: str) -> None:
    nodes, flops, weights = PUBLISHED[name]
    _, graph = load_autogo(shared_data / "autogo_graphs" / f"{name}.pkl")
    assert (len(graph) + 2, autogo_flops(graph), parameters(graph)) == (nodes, flops, weights)


@pytest.mark.parametrize(
    ("file", "family", "arch"),
    [
        ("nb201_best", "nasbench201", NB201_BEST),
        ("nb101_best", "nasbench101", NB101_BEST),
        ("hiaml_best", "hiaml", "src1,src1,r30,src3"),
        ("two_path_best", "two_path", TWO_PATH_BEST),
        ("inception_best", "inception", INCEPTION_BEST),
    ],
)
def test_the_families_build_the_published_graphs(shared_data: Path, file: str, family: str, arch: str) -> None:
    _, published = load_autogo(shared_data / "autogo_graphs" / f"{file}.pkl")
    built = families.FAMILIES[family].build(arch)
    assert same(published, built)
    assert published.signature == built.signature


def test_the_published_edsr_has_its_count(shared_data: Path) -> None:
    """It is there as a list of nodes only."""
    (path,) = (shared_data / "autogo_graphs").glob("edsr*.json")
    plain = json.loads(path.read_text())
    cg: dict[str, Any] = {"weighted_nodes": [], "regular_nodes": [], "edge_pairs": []}
    nodes = sorted(plain["nodes"], key=lambda node: not node["weighted"])
    index = {node["id"]: position for position, node in enumerate(nodes)}
    for node in nodes:
        (h, w, c), (ho, wo, co) = node["in_hwc"], node["out_hwc"]
        state = {"str_id": str(node["id"]), "op_type_idx": node["op_type_idx"], "label": node["label"]}
        state |= {"resolution": (h, ho, w, wo, c, co), "metadata": {"use_bias": node.get("bias")}}
        state |= {"shape": [0, 0, *node["kernel"]], "strides": [1, 1, 1, 1]} if node["weighted"] else {}
        cg["weighted_nodes" if node["weighted"] else "regular_nodes"].append(state)
        cg["edge_pairs"] += [(index[parent], index[node["id"]]) for parent in node["inputs"]]
    _, graph = autogo._graph(cg, "edsr")
    assert autogo_flops(graph) == plain["flops_repo_counter"] == 140739379200


def test_a_published_graph_runs(shared_data: Path) -> None:
    model = sources.load(shared_data / "autogo_graphs" / "two_path_best.pkl")
    assert model.name == "TwoPathNet4860"
    (logits,) = outputs(model, random_inputs(model.graph))
    assert logits.shape == (2, 10) and logits.isfinite().all()


def test_ids_are_readable(shared_data: Path) -> None:
    _, graph = load_autogo(shared_data / "autogo_graphs" / "hiaml_best.pkl")
    assert graph.nodes[0].id == "stem.conv.conv2d"
    assert graph.nodes[-1].id == "outnet.fc.matmul"


# What comes back


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_graphs_come_back(write: Any, protocol: int) -> None:
    name, graph = load_autogo(write(as_autogo(small()), protocol))
    assert name == "Net7"
    assert same(graph, small())
    (logits,) = outputs(sane_model(graph), random_inputs(graph))
    assert logits.shape == (2, 5)


@pytest.mark.parametrize("name", [n for n in families.FAMILIES if n != "fbnet"])  # these graphs have no permutations
def test_members_of_families_come_back(write: Any, name: str) -> None:
    for _, graph in families.sample(name, 2, 1):
        if not any(node.op == "mul_scalar" for node in graph):
            assert same(load_autogo(write(as_autogo(graph)))[1], graph)


def changed(cg: dict[str, Any], name: str, **fields: Any) -> dict[str, Any]:
    """The description with fields of one node set anew."""
    found = [node for kind in KINDS for node in cg[kind] if node["str_id"].endswith(f"net/{name}")]
    assert len(found) == 1
    found[0].update(fields)
    return cg


def one_conv(**fields: Any) -> dict[str, Any]:
    """A convolution of a 7x8 image with three channels, 4 out."""
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 7, 8)))
    cg = as_autogo(b.build(b.add("conv2d", x, id="c", out_channels=4, kernel=(1, 1))))
    gives = fields.pop("gives")
    cg["regular_nodes"][-1]["resolution"] = (gives[0], gives[0], gives[1], gives[1], 4, 4)
    return changed(cg, "c", resolution=(7, gives[0], 8, gives[1], 3, 4), **fields)


@pytest.mark.parametrize(
    ("kernel", "stride", "metadata", "gives", "padding"),
    [
        ((3, 3), 2, {"padding": "same"}, (4, 4), (1, 1)),
        ((3, 3), 2, {"padding": "VALID"}, (3, 3), (0, 0)),
        ((5, 1), 1, {"padding": "same", "dilations": [1, 2, 2, 1]}, (7, 8), (4, 0)),
        ((2, 2), 2, {"padding": "same"}, (4, 4), None),  # one more below
        ((4, 4), 1, {"padding": "same"}, (7, 8), None),
        ((3, 3), 1, {"pad_h": (2, 2), "pad_w": (1, 1)}, (9, 8), (2, 1)),
        ((3, 3), 1, {"pad_h": (0, 2), "pad_w": (1, 1)}, (7, 8), None),
    ],
)
def test_padding(write: Any, kernel: Any, stride: int, metadata: Any, gives: Any, padding: Any) -> None:
    cg = one_conv(shape=[3, 4, *kernel], strides=[1, stride, stride, 1], metadata=metadata, gives=gives)
    _, graph = load_autogo(write(cg))
    assert hwc(graph.signature.outputs[0]) == (*gives, 4)
    conv = graph.nodes[-1]
    assert [node.op for node in graph] == (["conv2d"] if padding else ["pad", "conv2d"])
    assert conv.attrs["padding"] == (padding or (0, 0))
    outputs(sane_model(graph), random_inputs(graph))


def test_pools_that_end_beyond_the_map(write: Any) -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 7, 8)))
    graph = b.build(b.add("max_pool2d", x, id="p", kernel=(2, 2), stride=(2, 2), ceil_mode=True))
    cg = as_autogo(graph)
    metadata = {"padding": "same", "ksize": [1, 2, 2, 1]}
    assert same(load_autogo(write(changed(cg, "p", metadata=metadata)))[1], graph)


def test_one_channel_too_many_is_cut(write: Any) -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 8, 8)))
    wide = b.add("conv2d", x, id="wide", out_channels=5, kernel=(1, 1))
    narrow = b.add("conv2d", x, id="narrow", out_channels=4, kernel=(1, 1))
    cut = [b.add("slice", wide, id=f"cut{i}", dim=1, start=0, stop=4) for i in range(2)]
    alone = b.add("conv2d", cut[0], id="alone", out_channels=4, kernel=(1, 1))
    graph = b.build(b.add("concat", wide, alone, b.add("add", cut[1], narrow, id="add"), id="cat"))
    _, found = load_autogo(write(as_autogo(graph)))
    assert same(found, graph)


def test_vectors_and_images_of_one_pixel(write: Any) -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 4, 4)))
    y = b.add("avg_pool2d", x, id="pool", kernel=(4, 4), stride=(1, 1), count_include_pad=False)
    y = b.add("relu", b.add("linear", b.add("flatten", y, id="flat"), id="fc", out_features=3), id="r")
    y = b.add("reshape", y, id="r.reshape", shape=(Batch(), 3, 1, 1))
    graph = b.build(b.add("mul", x, y, id="m"))
    cg = as_autogo(small_without(graph, {"flatten", "reshape"}))
    assert same(load_autogo(write(cg))[1], graph)


def small_without(graph: Graph, ops: set[str]) -> Any:
    """What :func:`as_autogo` needs of a graph, without the nodes of some operations, which their importer drops."""

    class Without:
        inputs, outputs, types = graph.inputs, graph.outputs, graph.types

        def __iter__(self) -> Iterator[Any]:
            through: dict[Value, Value] = {}
            for node in graph:
                inputs = tuple(through.get(v, v) for v in node.inputs)
                if node.op in ops:
                    through[node.value()] = inputs[0]
                else:
                    yield type(node)(node.id, node.op, inputs, node.attrs, node.weights)

    return Without()


# Damage


NESTED: list[Any] = []
"""A few bytes in a file; 10 to the power of 40 lists when it is written out."""
for _ in range(40):
    NESTED = [NESTED] * 10


@pytest.mark.parametrize(
    ("node", "fields", "message"),
    [
        ("a", {"op_type_idx": 22}, "has the operation 22, which cannot be read; known are: conv2d"),
        ("a", {"resolution": (9, 5, 7, 7, 4)}, "has the resolution (9, 5, 7, 7, 4), not six sizes"),
        ("a", {"resolution": (9, 4, 7, 7, 4, 6)}, "gives 5x7x6, but is declared to give 4x7x6"),
        ("d", {"resolution": (5, 5, 7, 7, 8, 6)}, "reads 5x7x6, but is declared to read 5x7x8"),
        ("head", {"resolution": (1, 1, 1, 1, 99, 5)}, "reads 18 features, but is declared to read 99"),
        ("a", {"strides": (1, 0, 1, 1)}, "has the strides (1, 0, 1, 1)"),
        ("a", {"shape": None}, "does not say how large its kernel is"),
        ("p", {"metadata": {"padding": "same"}}, "does not say how large its kernel is"),
        ("a", {"metadata": {"padding": "reflect"}}, "has the padding 'reflect'"),
        ("a", {"metadata": {"pad_h": 3}}, "has the padding 3"),
        ("c", {"metadata": {"dilations": [1, 0, 0, 1]}}, "has the dilations"),
        ("q", {"metadata": {"padding": "same", "ksize": (1, 4, 4, 1)}}, "no pooling here can"),
        ("q", {"metadata": {"padding": "valid", "ksize": (1, 40, 4, 1)}}, "cannot be built"),
        ("a", {"metadata": [3]}, "has the metadata [3]"),
        ("a", {"resolution": (9, 5, 7, 7, 4, float("nan"))}, "not six sizes"),
        ("a", {"strides": (1, float("inf"), 1, 1)}, "has the strides (1, inf, 1, 1)"),
        ("a", {"resolution": NESTED}, "has the resolution [[[...], [...]"),
        ("a", {"metadata": {"padding": NESTED}}, "has the padding [[[...], [...]"),
        ("a", {"label": None}, "lacks its str_id, op_type_idx or label"),
        ("g", {"op_type_idx": 2}, "|net/cat' (cat) reads an output"),
    ],
)
def test_damaged_nodes_are_named(write: Any, node: str, fields: dict[str, Any], message: str) -> None:
    text = error(write(changed(as_autogo(small()), node, **fields)))
    assert message in text
    if "lacks" not in message and node != "g":
        assert f"|net/{node}'" in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"edge_pairs": [[0, 999]]}, "the edge [0, 999] joins no two"),
        ({"edge_pairs": [[0, "x"]]}, "joins no two"),
        ({"edge_pairs": None}, "the edge None joins no two"),
        ({"edge_pairs": []}, "reads 0 values"),
        ({"regular_nodes": [], "edge_pairs": []}, "no output"),
        ({"weighted_nodes": [], "regular_nodes": []}, "no list of weighted_nodes"),
    ],
)
def test_damaged_graphs(write: Any, fields: dict[str, Any], message: str) -> None:
    assert message in error(write(as_autogo(small()) | fields))


def test_cycles_and_second_inputs(write: Any) -> None:
    cg = as_autogo(small())
    names = [node["str_id"].rpartition("/")[2] for kind in KINDS for node in cg[kind]]
    pair = [names.index("cat"), names.index("d")]
    assert "reads 2 values, not one" in error(write(cg | {"edge_pairs": [*cg["edge_pairs"], [0, names.index("g")]]}))
    kept = [edge for edge in cg["edge_pairs"] if edge[1] != names.index("d")]
    assert "cycle" in error(write(cg | {"edge_pairs": [*kept, pair]}))


class Bomb:
    """Calls os.system where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.trace}'",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_something(tmp_path: Path, classes: types.ModuleType, protocol: int) -> None:
    trace, path = tmp_path / "trace", tmp_path / "net.pkl"
    cg = instance(classes, as_autogo(small()))
    cg.parent = Bomb(trace)
    path.write_bytes(pickle.dumps(cg if protocol else cg.parent, protocol))
    message = error(path)
    assert "posix.system" in message or "nt.system" in message or "copy_reg" in message
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # the bomb was live


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"something else", "damaged"),
        (pickle.dumps({"a": 1}), "holds no single graph of AutoGO's but a dict"),
        (pickle.dumps([1, 2]), "a list of 2"),
        (b"\x80\x04N\x94r\xff\xff\xff\xff.", "a NoneType"),  # a memory slot far away
        (b"\x80\x04]\x94" + b"\x85" * 50000 + b"}\x94" + b"h\x00K\x01s.", "no pickle"),  # a key too deep to hash
        (b"\x80\x04cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "asks for builtins.eval"),
        (b"\x80\x04P1\n.", "instruction PERSID"),
        (b"\x80\x04\x82\x01.", "instruction EXT1"),
        (b"\x80\x04(\x91.", "instruction FROZENSET"),
    ],
)
def test_files_that_are_no_graph(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(data)
    assert message in error(path)


def test_truncated_and_altered_files(write: Any) -> None:
    """Never anything but a graph or one clear message."""
    path = write(as_autogo(small()))
    data, rng, refused = path.read_bytes(), random.Random(0), 0
    for trial in range(150):
        bad = bytearray(data[: rng.randrange(len(data))] if trial % 3 == 0 else data)
        for _ in range(trial % 3):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        path.write_bytes(bytes(bad))
        try:
            load_autogo(path)
        except SourceError as refusal:
            refused += 1
            assert str(path) in str(refusal)
    assert refused > 75


def test_size_limit_and_missing_files(write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(as_autogo(small()))
    monkeypatch.setattr(autogo, "_GRAPH_LIMIT", 1000)
    assert "larger than" in error(path)
    monkeypatch.undo()
    assert "does not exist" in error(tmp_path / "none.pkl")
    assert "cannot be read" in error(tmp_path)


# Collections


def test_labelled_pickles(classes: types.ModuleType, tmp_path: Path) -> None:
    graph = instance(classes, as_autogo(small()))
    path = tmp_path / "gpi_nb101_comp_graph_cache.pkl"
    config = (["input", "output"], np.array([[0, 1], [0, 0]]))
    items = [
        {"compute graph": graph, "acc": np.float64(0.93), "flops": np.int64(3), "original config": config},
        {"compute graph": graph, "acc": 0.5, "flops": 3.0},
        {"compute graph": graph, "original config": config},
    ]
    path.write_bytes(pickle.dumps(items, 4))
    entries = list(autogo_entries(path))
    assert [(entry.name, entry.label) for entry in entries] == [("Net7", 0.93), ("Net7", 0.5), ("Net7", None)]
    assert all(same(entry.graph, small()) for entry in entries)
    assert [name for name, _ in sources.graphs(path)] == ["Net7"] * 3
    assert "but a list of 3" in error(path)


def test_labelled_json(tmp_path: Path) -> None:
    path = tmp_path / "gpi_test_hiaml_cifar10_labelled_cg_data.json"
    path.write_text(
        json.dumps({"a": {"net_config": ["hiaml_z"], "perfs": [91, 92], "max_perf": 92, "cg": as_autogo(small())}})
    )
    (entry,) = autogo_entries(path)
    assert (entry.name, entry.label) == ("Net7", 0.92)
    assert same(entry.graph, small())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"{", "is no JSON"),
        ("a.json", b"[" * 100000, "is no JSON"),
        ("a.json", b"[1]", "no JSON object of graphs"),
        ("a.json", b'{"k": {"cg": 3}}', "entry 'k' holds no graph 'cg'"),
        ("a.json", b'{"k": {"cg": {}, "max_perf": 150}}', "entry 'k': the graph has no list"),
        ("a.pkl", pickle.dumps([{"acc": 1}]), "entry 0 holds no 'compute graph'"),
        ("a.pkl", pickle.dumps(3), "no list of graphs but a int"),
    ],
)
def test_collections_that_are_none(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        list(autogo_entries(path))
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_labels_that_are_no_accuracy(classes: types.ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([{"compute graph": instance(classes, as_autogo(small())), "acc": 93.1}]))
    with pytest.raises(SourceError, match=r"the label 93\.1 is no accuracy between 0 and 1"):
        list(autogo_entries(path))


# As a source


def test_a_pickle_is_a_source(write: Any) -> None:
    path = write(as_autogo(small()))
    model = sources.load(path)
    assert model.name == "Net7"
    assert all(np.array_equal(model.weights[key], untrained(model.graph).weights[key]) for key in model.weights)
    assert [name for name, _ in sources.graphs(path.parent)] == ["Net7"]
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0 and "Net7" in result.output
    path.write_bytes(b"nothing")
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 2
