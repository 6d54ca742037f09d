"""The families: published counts, the benchmark's own numbers, sampling, and members that run."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from contracts import outputs, random_inputs, sane_model

from netgraft.costs.analytic import flops, parameters
from netgraft.costs.autogo import autogo_flops
from netgraft.errors import SourceError
from netgraft.ir import Graph
from netgraft.spaces import families
from netgraft.spaces.families import nasbench201, nasbench201_benchmark, nasbench201_cells


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


@pytest.mark.parametrize("arch", ["", "nor_conv_3x3", "|a~0|+|b~0|c~1|", cell(*["conv"] * 6), NB201_BEST + "|"])
def test_strings_that_are_no_cell(arch: str) -> None:
    with pytest.raises(SourceError, match="NAS-Bench-201"):
        nasbench201(arch)


# Every family


def test_sampling_ends_with_the_family() -> None:
    assert len(drawn_names("nasbench201", 5000)) == 4096


def drawn_names(name: str, count: int) -> list[str]:
    """Names of the members drawn, without building them."""
    family = families.family(name)
    with pytest.MonkeyPatch.context() as patch:
        unbuilt = families.Family(**{**vars(family), "build": lambda arch: None})
        patch.setattr(families, "FAMILIES", {name: unbuilt})
        return [found for found, _ in families.sample(name, count, 0)]


@pytest.mark.parametrize("name", families.FAMILIES)
def test_members_are_different_and_come_again_with_their_seed(name: str) -> None:
    members = list(families.sample(name, 8, 5))
    assert len({member for member, _ in members}) == 8
    assert [member for member, _ in families.sample(name, 3, 5)] == [member for member, _ in members[:3]]
    assert [member for member, _ in families.sample(name, 3, 6)] != [member for member, _ in members[:3]]
    for member, graph in members[:2]:
        family, _, arch = member.partition("?arch=")
        assert families.FAMILIES[family].build(arch) == graph


@pytest.mark.parametrize("name", families.FAMILIES)
def test_members_run(name: str) -> None:
    for _, graph in families.sample(name, 2, 0):
        (logits,) = outputs(sane_model(graph), random_inputs(graph))
        assert logits.shape == (2, 10)
        assert logits.isfinite().all()
        assert (logits[0] != logits[1]).any()


def test_unknown_families() -> None:
    with pytest.raises(SourceError, match="did you mean 'nasbench201'"):
        families.family("nasbench20")
