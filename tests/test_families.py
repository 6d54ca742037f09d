"""The families: published counts, the benchmark's own numbers, sampling, and members that run."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from contracts import outputs, random_inputs, sane_model

from netgraft.costs.analytic import flops, parameters
from netgraft.costs.autogo import autogo_flops
from netgraft.errors import SourceError
from netgraft.ir import Graph
from netgraft.spaces import families
from netgraft.spaces.families import nasbench201, nasbench201_benchmark, nasbench201_cells, nasbench_macro
from netgraft.spaces.families.nasbench201 import function, pruned


def counts(graph: Graph) -> tuple[int, int, int, int]:
    """Nodes, edges, FLOPs and parameters as AutoGO counts them: its graphs have nodes for the input and the output."""
    edges = sum(len(set(node.inputs)) for node in graph)
    return len(graph) + 2, edges + 1, autogo_flops(graph), parameters(graph)


# NAS-Bench-201


def cell(*ops: str) -> str:
    a, b, c, d, e, f = ops
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


NB201_BEST = cell(*["nor_conv_3x3"] * 3, "skip_connect", "nor_conv_3x3", "nor_conv_1x1")


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        (NB201_BEST, (306, 352, 312767892, 1038394)),  # published
        (cell(*["nor_conv_3x3"] * 6), (336, 382, 447321492, 1496474)),
        (cell(*["nor_conv_1x1"] * 6), (336, 382, 69834132, 206234)),
        (cell(*["avg_pool_3x3"] * 6), (246, 292, 22648212, 44954)),
        (cell(*["skip_connect"] * 6), (156, 202, 17487252, 38234)),
    ],
)
def test_counts_of_nasbench201(arch: str, expected: tuple[int, ...]) -> None:
    assert counts(nasbench201(arch)) == expected


@pytest.mark.parametrize(
    ("index", "million_macs", "million_parameters"),
    [(0, 15.64737, 0.129306), (11, 113.95137, 0.802426)],  # as NATS-Bench's files have them
)
def test_published_counts_of_the_benchmark(index: int, million_macs: float, million_parameters: float) -> None:
    graph = nasbench201_benchmark(nasbench201_cells()[index])
    bias = 10  # of the classifier, which the benchmark counts as multiply-accumulates
    assert flops(graph) // 2 + bias == round(million_macs * 1e6)
    assert parameters(graph) == round(million_parameters * 1e6)
    # The widely quoted figures of the largest cell: 220.1 M and 1.53 M.
    largest = nasbench201_benchmark(cell(*["nor_conv_3x3"] * 6))
    assert (flops(largest) // 2 + bias, parameters(largest)) == (220119690, 1531546)


def test_all_cells_are_there_once() -> None:
    cells = nasbench201_cells()
    assert len(set(cells)) == len(cells) == 15625
    assert sum("none" not in arch for arch in cells) == 4096
    # Those that the benchmark's own generator asserts.
    expected = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    assert cells[0] == expected
    assert cells[9] == "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
    assert cells[123] == "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"


def test_cells_are_in_the_benchmarks_order(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "nasbench201" / "accuracy.parquet", columns=["index", "arch"]).to_pylist()
    cells = nasbench201_cells()
    assert len(table) > 10000
    assert all(cells[row["index"]] == row["arch"] for row in table)


@pytest.mark.parametrize("build", [nasbench201, nasbench201_benchmark])
def test_edges_of_none_add_nothing(build: object) -> None:
    """A node that nothing enters is zero; what does not reach the output is not there."""
    assert callable(build)
    conv, none = "nor_conv_3x3", "none"
    alone = build(cell(none, none, none, conv, none, none))
    assert [n.op for n in alone if n.id.startswith("stage1.cell2.")] == ["relu", "conv2d", "batch_norm"]
    # Edges into a node from which nothing leads on.
    assert build(cell(conv, conv, conv, conv, none, none)).digest == alone.digest
    # The first node is zero: a convolution of zeros still gives what its batch norm adds.
    zero = build(cell(none, none, none, conv, conv, none))
    ops = [n.op for n in zero if n.id.startswith("stage1.cell2.")]
    assert sorted(ops) == sorted(["mul_scalar", *["relu", "conv2d", "batch_norm"] * 2, "add"])
    empty = build(cell(*[none] * 6))
    assert [n.op for n in empty if n.id.startswith("stage1.cell2.")] == ["mul_scalar"]


def test_cells_that_compute_the_same() -> None:
    conv, point, skip, pool, none = "nor_conv_3x3", "nor_conv_1x1", "skip_connect", "avg_pool_3x3", "none"
    assert len({function(arch) for arch in nasbench201_cells()}) == 4610
    alone = function(cell(none, none, none, conv, none, none))
    assert alone == "conv3x3(x)" == function(cell(conv, none, none, none, skip, none))
    assert alone == function(cell(conv, conv, point, conv, none, none))  # what leads nowhere
    assert alone == function(cell(skip, skip, skip, none, none, conv))  # twice the input: batch norm takes it out
    assert (
        function(cell(skip, none, none, skip, skip, none))
        == "x + x"
        != function(cell(none, none, none, skip, none, none))
    )
    assert function(cell(skip, pool, pool, none, none, pool)) == "avg(avg(x)) + avg(avg(x))"
    # A convolution of zeros is what its batch norm adds, whichever its kernel.
    assert (
        function(cell(none, none, conv, skip, none, skip))
        == function(cell(none, none, point, skip, none, pool))
        == "x + 1"
    )
    assert function(cell(conv, none, none, none, pool, none)) != function(cell(pool, none, none, none, conv, none))
    assert function(cell(*[none] * 6)) == ""


@pytest.mark.parametrize("index", [3, 9, 20, 77, 1234])
def test_pruned_cells_have_the_same_graph(index: int) -> None:
    arch = nasbench201_cells()[index]
    short = pruned(arch)
    assert nasbench201(short).digest == nasbench201(arch).digest
    assert pruned(short) == short and short.count("none") >= arch.count("none")


@pytest.mark.parametrize("arch", ["", "nor_conv_3x3", "|a~0|+|b~0|c~1|", cell(*["conv"] * 6), NB201_BEST + "|"])
def test_strings_that_are_no_cell(arch: str) -> None:
    with pytest.raises(SourceError, match="NAS-Bench-201"):
        nasbench201(arch)


# NAS-Bench-Macro


@pytest.mark.parametrize(
    ("arch", "macs", "params"),
    [("02012100", 47327744, 890666), ("22220212", 85053952, 2285674), ("00011110", 31390208, 1118378)],
)
def test_published_counts_of_nasbench_macro(arch: str, macs: int, params: int) -> None:
    graph = nasbench_macro(arch)
    assert (flops(graph) // 2, parameters(graph)) == (macs, params)


def test_all_published_counts_of_nasbench_macro(shared_data: Path) -> None:
    rows = pq.read_table(shared_data / "nasbench_macro" / "accuracy.parquet").to_pylist()
    for row in rows[::50]:
        graph = nasbench_macro(row["arch"])
        assert (flops(graph) // 2, parameters(graph)) == (row["flops"], row["params"]), row["arch"]


def test_networks_of_nasbench_macro_that_are_one(shared_data: Path) -> None:
    """Those that the benchmark trained once are one member, and one graph; no others are."""
    rows = pq.read_table(shared_data / "nasbench_macro" / "accuracy.parquet").to_pylist()
    key = families.FAMILIES["nasbench_macro"].key
    labels: dict[str, set[tuple[float, int]]] = {}
    for row in rows:
        labels.setdefault(key(row["arch"]), set()).add((row["mean_acc"], row["params"]))
    assert all(len(found) == 1 for found in labels.values())
    assert len({key(arch) for arch in map("".join, product("012", repeat=8))}) == 3969
    assert key("20010102") == "20010120" != key("20010021") == "20010021"
    assert nasbench_macro("20010102").digest == nasbench_macro("20010120").digest


# The other families: numbers from the regression table of an independent generator, and the published graphs

INCEPTION_BEST = (
    "6*depthwise5x5:16-16,inception_s3x3:16-16,depthwise5x5+conv5x5:16-16;2*conv5x5+double1x1:128-64;"
    "5*conv3x3:128-128;3*inception_s5x5:64-64,conv5x5+inception_p5x5+conv1x1+conv3x3+inception_s3x3+conv5x5+"
    "inception_s3x3+depthwise5x5+inception_p3x3+inception_s5x5+depthwise5x5:32-64,inception_p3x3+inception_s3x3:32-64,"
    "inception_s3x3:64-64"
)
TWO_PATH_BEST = (
    "conv5x5*,conv5x5*;double3x3+bottleneck-e2-k3,conv1x1+bottleneck-r2-k3*,"
    "bottleneck-e2-k3+bottleneck-r2-k3+bottleneck-e2-k1,bottleneck-r2-k3*"
)
NB101_BEST = "0-1,0-2,0-6,1-3,1-5,2-5,3-4,4-5,5-6;conv3x3,conv3x3,maxpool3x3,conv3x3,conv3x3"

HIAML = {
    "z": (95, 102, 235542036, 2714698),
    "a22": (87, 94, 168285716, 1895498),
    "b23": (123, 130, 200381972, 2390090),
    "j30": (99, 106, 237688340, 2756426),
    "g30": (147, 162, 217749012, 2597194),
    "r30": (159, 182, 220190228, 2638922),
    "l20": (55, 54, 150771220, 1688394),
    "t20": (87, 94, 111662612, 1281098),
    "t31": (167, 190, 220337684, 2638922),
    "src0": (87, 94, 319280660, 3861578),
    "src1": (87, 94, 300480020, 2939594),
    "src3": (103, 110, 183334420, 1999818),
    "src7": (135, 142, 219502100, 2637386),
    "src8": (103, 110, 135026196, 1611082),
}
NB101 = {
    NB101_BEST: (225, 251, 11722075156, 39810442),
    "0-1;": (36, 35, 280538132, 882570),
    "0-1,1-2;conv3x3": (63, 62, 3002575892, 10177674),
    "0-1,0-2,0-3,0-5,1-6,2-6,3-4,4-6,5-6;conv1x1,conv3x3,conv3x3,conv3x3,maxpool3x3": (243, 269, 813493268, 2694282),
    "0-1,0-2,0-3,1-3,1-4,2-4,3-4;conv3x3,conv3x3,conv3x3": (198, 224, 1191592724, 3984576),
}
TWO_PATH = {
    "conv3x3": (27, 27, 54053908, 1381098),
    "double3x3": (39, 39, 58809364, 1473642),
    "conv5x5": (27, 27, 70831124, 1708778),
    "bottleneck-r2-k3": (31, 31, 51682324, 1335210),
    "bottleneck-r4-k3": (31, 31, 48137236, 1265994),
    "bottleneck-e2-k3": (31, 31, 72952852, 1750506),
    "inception_s3x3": (39, 39, 54127636, 1381866),
    "inception_s5x5": (39, 39, 60419092, 1504746),
    "conv3x3+avgpool3x3": (35, 35, 54127636, 1381866),
    "conv3x3+maxpool3x3": (35, 35, 54127636, 1381866),
}
INCEPTION = {
    "conv3x3": (40, 44, 163900436, 2369802),
    "inception_s3x3": (64, 68, 143092756, 2108490),
    "inception_p3x3": (76, 88, 101329940, 1713738),
    "depthwise3x3": (43, 47, 56011796, 1241802),
    "conv5x5": (40, 44, 382004244, 4466954),
    "depthwise5x5": (43, 47, 59943956, 1257162),
    "inception_s5x5": (64, 68, 210201620, 2718794),
    "inception_p5x5": (76, 88, 141175828, 2061898),
    "conv3x3+conv1x1": (64, 68, 181660692, 2546762),
    "conv3x3+avgpool3x3": (56, 60, 164637716, 2371722),
    "conv3x3+double1x1": (88, 92, 199420948, 2723722),
}
COUNTS = (
    [("hiaml", ",".join([kind] * 4), expected) for kind, expected in HIAML.items()]
    + [("nasbench101", arch, expected) for arch, expected in NB101.items()]
    + [("two_path", f"{op}*,{op}*;{op}*,{op}*", expected) for op, expected in TWO_PATH.items()]
    + [
        ("inception", ";".join(f"2*{op}:{width}-{width}" for width in (32, 64, 128, 256)), expected)
        for op, expected in INCEPTION.items()
    ]
    + [
        ("hiaml", "src1,src1,r30,src3", (107, 118, 246314516, 2220746)),
        ("two_path", TWO_PATH_BEST, (56, 58, 116200468, 1780362)),
        ("inception", INCEPTION_BEST, (403, 445, 493881364, 3537898)),
    ]
)


@pytest.mark.parametrize(("name", "arch", "expected"), COUNTS)
def test_counts_of_families(name: str, arch: str, expected: tuple[int, ...]) -> None:
    assert counts(families.FAMILIES[name].build(arch)) == expected


@pytest.mark.parametrize(
    ("name", "nodes", "mflops"),
    [
        # Least, median and greatest of 300 members, as the independent generator drew them.
        ("nasbench101", (36, 126, 243), (223, 862, 6858)),
        ("nasbench201", (186, 269, 336), (19, 116, 384)),
        ("hiaml", (71, 109, 159), (131, 208, 294)),
        ("two_path", (36, 68, 108), (61, 108, 182)),
        ("inception", (123, 444, 904), (126, 397, 1131)),
        ("inception_published", (216, 668, 1374), (163, 521, 1961)),
    ],
)
def test_members_are_of_the_usual_size(name: str, nodes: tuple[int, ...], mflops: tuple[int, ...]) -> None:
    family, rng = families.FAMILIES[name], np.random.default_rng(0)
    count = 151 if name == "nasbench101" else 31  # those differ most
    graphs = [family.build(family.draw(rng)) for _ in range(count)]  # with repetitions, as they were drawn there
    for values, (least, median, greatest) in (
        ([len(graph) + 2 for graph in graphs], nodes),
        ([autogo_flops(graph) / 1e6 for graph in graphs], mflops),
    ):
        assert 0.7 * least <= min(values) <= max(values) <= 1.4 * greatest
        assert 0.7 * median <= sorted(values)[count // 2] <= 1.4 * median


def test_cells_of_nasbench101_are_pruned_and_may_be_spelled_as_the_benchmark_does() -> None:
    matrix = np.zeros((5, 5), int)
    for edge in ((0, 1), (0, 2), (1, 4), (0, 4), (3, 4)):
        matrix[edge] = 1
    ops = ["input", "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3", "output"]
    expected = families.FAMILIES["nasbench101"].build("0-1,0-2,1-2;conv3x3")
    assert families.nasbench101(matrix, ops) == families.nasbench101(matrix, ops[1:-1]) == expected


def test_isomorphic_cells_are_one_member() -> None:
    key = families.FAMILIES["nasbench101"].key
    assert key("0-1,0-2,1-3,2-3;conv3x3,maxpool3x3") == key("0-1,0-2,1-3,2-3;maxpool3x3,conv3x3")
    assert key("0-1,1-2,2-3;conv3x3,maxpool3x3") != key("0-1,1-2,2-3;maxpool3x3,conv3x3")
    key = families.FAMILIES["inception"].key
    stage = "2*conv3x3:16-16,conv5x5:16-16"
    assert key(";".join([stage] * 4)) == key(";".join(["2*conv5x5:16-16,conv3x3:16-16", *[stage] * 3]))
    assert key(";".join([stage] * 4)) != key(";".join([stage, stage, stage, "3*conv3x3:16-16,conv5x5:16-16"]))


def test_drawn_configurations_keep_the_rules() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        edges, _, ops = families.FAMILIES["nasbench101"].draw(rng).partition(";")
        assert 1 <= len(edges.split(",")) <= 9 and len(ops.split(",")) <= 5
        for path in families.FAMILIES["two_path"].draw(rng).split(";"):
            blocks = path.split(",")
            assert 2 <= len(blocks) <= 4 and sum(block.endswith("*") for block in blocks) == 2
            for block in blocks:
                chain = block.removesuffix("*").split("+")
                supporting = sum(op.endswith("k1") or "pool" in op or op == "conv1x1" for op in chain)
                assert 1 <= len(chain) <= 3 and supporting <= min(1, len(chain) - 1)
        for name, most in (("inception", (3, 4, 8, 10)), ("inception_published", (4, 8, 12, 16))):
            for stage in families.FAMILIES[name].draw(rng).split(";"):
                copies, _, paths = stage.partition("*")
                lengths = [len(path.split("+")) for path in paths.split(",")]
                assert 2 <= int(copies) <= 6 and sum(lengths) <= most[len(lengths) - 1]


@pytest.mark.parametrize(
    ("name", "arch", "message"),
    [
        ("nasbench_macro", "0123", "is no network of NAS-Bench-Macro"),
        ("hiaml", "z,z,z", "4 types of blocks, not 3"),
        ("hiaml", "z,z,z,y", "no block 'y'; it has: z, a22"),
        ("two_path", "conv3x3*,conv3x3*", "two paths"),
        ("two_path", "conv3x3*,conv3x3;conv3x3*,conv3x3*", "2 reduction blocks"),
        ("two_path", "conv3x3*,conv9x9*;conv3x3*,conv3x3*", "no operation 'conv9x9'"),
        ("two_path", "conv3x3*,conv1x1*;conv3x3*,conv3x3*", "block conv1x1* cannot reduce"),
        ("inception", "2*conv3x3:32-32", "4 stages, not 1"),
        ("inception", "conv3x3:32-32;;;", "is no stage of Inception"),
        ("inception", ";".join(["2*conv3x3:32-64"] * 4), "both widths must be equal"),
        ("inception", ";".join(["2*conv1x1:32-32"] * 4), "needs one of conv3x3"),
        ("inception", ";".join(["2*conv7x7:32-32"] * 4), "no operation 'conv7x7'"),
        ("nasbench101", "0-1,1-2;conv7x7", "no operation 'conv7x7'"),
        ("nasbench101", "0-1;conv3x3", "no way leads from the input to the output"),
        ("nasbench101", "0-1,1-0;conv3x3", "is no cell of NAS-Bench-101"),
        ("nasbench101", "0-5;conv3x3", "is no cell of NAS-Bench-101"),
        ("nasbench101", "x;", "is no cell of NAS-Bench-101"),
        ("nasbench101", "0-1,1-2,2-3,3-4,4-5,5-6,6-7;" + ",".join(["conv3x3"] * 6), "at most 7 vertices"),
    ],
)
def test_configurations_that_are_none(name: str, arch: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        families.FAMILIES[name].build(arch)
    assert message in str(caught.value)


def test_a_matrix_that_does_not_fit() -> None:
    with pytest.raises(SourceError, match="upper triangular 3x3"):
        families.nasbench101([[0, 1], [0, 0]], ["conv3x3"])


# Every family


def test_sampling_ends_with_the_family() -> None:
    assert len(drawn_names("nasbench201", 5000)) == 4096


def test_what_can_be_listed() -> None:
    hiaml = families.FAMILIES["hiaml"]
    assert hiaml.members is not None
    assert len(set(hiaml.members())) == hiaml.size == 14**4
    assert next(families.enumerated("hiaml"))[0] == "hiaml?arch=z,z,z,z"
    with pytest.raises(SourceError, match="These can be listed: nasbench201"):
        next(families.enumerated("two_path"))


def drawn_names(name: str, count: int, seed: int = 0) -> list[str]:
    """Names of the members drawn, without building them."""
    family = families.family(name)
    with pytest.MonkeyPatch.context() as patch:
        unbuilt = families.Family(**{**vars(family), "build": lambda arch: None})
        patch.setattr(families, "FAMILIES", {name: unbuilt})
        return [found for found, _ in families.sample(name, count, seed)]


@pytest.mark.parametrize("name", families.FAMILIES)
def test_members_are_different_and_come_again_with_their_seed(name: str) -> None:
    members = drawn_names(name, 50, 5)
    assert len(set(members)) == 50
    assert drawn_names(name, 3, 5) == members[:3] != drawn_names(name, 3, 6)
    ((member, graph),) = families.sample(name, 1, 5)
    assert member == members[0]
    assert families.FAMILIES[name].build(member.partition("?arch=")[2]) == graph


@pytest.mark.parametrize("name", families.FAMILIES)
def test_members_run(name: str) -> None:
    for _, graph in families.sample(name, 2, 0):
        (logits,) = outputs(sane_model(graph), random_inputs(graph))
        assert logits.shape == (2, 100 if name == "fbnet" else 10)
        assert logits.isfinite().all()
        assert (logits[0] != logits[1]).any()


def test_unknown_families() -> None:
    with pytest.raises(SourceError, match="did you mean 'nasbench201'"):
        families.family("nasbench20")
