"""Benchmark tables: golden records of the official files, lookups by index, arch and graph, and bad input."""

from __future__ import annotations

import bz2
import collections
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import flops, parameters
from netgraft.errors import DataError, NetgraftError, OptionError, SourceError
from netgraft.ir import untrained
from netgraft.sources import load
from netgraft.spaces import families
from netgraft.spaces.families import fbnet, nasbench201_benchmark, nats_size
from netgraft.spaces.tabular import SPACES, Benchmark, nats, plausible, tabular
from netgraft.spaces.tabular.topology import topology_clock

TSS, SSS = "NATS-tss-v1_0-3ffb9-simple", "NATS-sss-v1_0-50262-simple"
RESNET = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"


@pytest.mark.parametrize(
    ("arch", "params", "macs"), [("8:8:8:8:8", 11_714, 4_481_104), ("8:8:8:16:32", 49_202, 6_840_640)]
)
def test_networks_of_the_size_space_cost_what_was_published(arch: str, params: int, macs: int) -> None:
    graph = nats_size(arch)
    assert (parameters(graph), flops(graph)) == (params, 2 * macs)


def test_networks_of_fbnet() -> None:
    skips = fbnet(" ".join("8" * 22))
    assert skips.signature.outputs[0].concrete()[-1] == 100
    assert [n.attrs["kernel"] for n in skips if n.op == "conv2d"] == [(3, 3)] + [(1, 1)] * 7
    grouped = fbnet("1 " + " ".join("8" * 21))
    assert sum(node.op == "permute" for node in grouped) == 1
    assert [n.attrs["groups"] for n in grouped if n.op == "conv2d"][1:4] == [2, 16, 2]
    # skips behind the first layer of a stage may stand anywhere in it
    assert fbnet("0 0 8 3 8 " + "0 " * 17).digest == fbnet("0 0 3 8 8 " + "0 " * 17).digest


def test_golden_records_of_the_topology_space(shared_data: Path) -> None:
    table = tabular("nats-tss", shared_data / "nats_bench" / TSS)
    assert len(table) == 15_625
    first = table.arch(0)
    assert [round(table.accuracy(first, split="valid", epochs=12, trial=t), 2) for t in (1, 0)] == [62.71, 64.02]
    for index, macs, params, accuracies in [
        (0, 15_647_370, 129_306, [82.24, 82.09, 81.62]),
        (11, 113_951_370, 802_426, [87.94, 87.75, 88.13]),
    ]:
        assert table.cost(index, "macs") == pytest.approx(macs) == table.space.counts(table.arch(index))["macs"]
        assert table.cost(index, "parameters") == pytest.approx(params)
        assert table.space.counts(table.arch(index))["parameters"] == params
        found = [round(table.accuracy(index, "cifar10", "valid", 200, trial=t), 2) for t in range(3)]
        assert sorted(found) == sorted(accuracies)
    # the training of 12 epochs, and one validation pass
    assert table.simulate(11).seconds == pytest.approx(12 * 12.462056795756022 + 4.151251713434855)
    assert table.accuracy(11, split="valid", epochs=12, at=1) == pytest.approx((27.508 + 30.008) / 2)
    for dataset in ("cifar10", "cifar100", "imagenet16-120"):
        for index in (0, 11):
            seen = table.simulate(index, dataset)
            estimate = topology_clock(table.arch(index), table.training(dataset, "valid", 12))
            assert not seen.estimated and seen.seconds == pytest.approx(estimate, rel=1e-6)


def test_golden_records_of_the_size_space(shared_data: Path) -> None:
    table = tabular("nats-sss", shared_data / "nats_bench" / SSS)
    assert (len(table), table.arch(11)) == (32_768, "8:8:8:16:32")

    def trials(index: int, split: str, epochs: int) -> list[float]:
        training = table.training("cifar10", split, epochs)
        count = table.labels.trials(index, training)
        return [round(table.accuracy(index, *training, trial=trial), 2) for trial in range(count)]

    assert trials(0, "valid", 1) == [28.7]
    assert trials(0, "valid", 12) == [66.6, 66.25, 66.59]
    assert trials(0, "test", 12) == [72.22, 70.7, 72.24]
    assert (trials(0, "valid", 90), trials(0, "test", 90)) == ([76.89], [79.79])
    assert trials(11, "valid", 12) == [74.21, 73.16, 72.94]
    assert trials(11, "test", 12) == [80.11, 79.23, 80.1]
    assert (trials(11, "valid", 90), trials(11, "test", 90)) == ([83.72], [85.77])
    assert table.best("cifar10", "valid", 12)[0] == "8:8:8:16:32"
    with pytest.raises(DataError, match="has no accuracy of 8:8:8:8:16"):
        table.accuracy(1)


def test_simulated_training_draws_a_trial(shared_data: Path) -> None:
    table = tabular("nats-sss", shared_data / "nats_bench" / SSS)
    rng = np.random.default_rng(0)
    seen = {round(table.simulate(0, rng=rng).accuracy, 2) for _ in range(30)}
    assert seen == {66.6, 66.25, 66.59}


def test_compact_tables(shared_data: Path) -> None:
    table = tabular("nats-tss", shared_data / "nasbench201")
    assert table.best()[1] == pytest.approx(94.37, abs=0.005)
    assert table.simulate(RESNET).estimated
    assert table.cost(RESNET, "latency@eyeriss") > 0
    macro = tabular("nasbench-macro", shared_data / "nasbench_macro")
    assert macro.accuracy("02012100", trial=0) != macro.accuracy("02012100", trial=1)
    assert macro.cost("02012220", "macs") == macro.space.counts("02012220")["macs"]
    with pytest.raises(DataError, match="no accuracies at all"):
        tabular("fbnet", shared_data / "hardware" / "fbnet_latency_ms.parquet").best()


def test_equal_cells_have_nearly_equal_accuracies(shared_data: Path) -> None:
    table = tabular("nats-tss", shared_data / "nasbench201")
    training = table.training()
    classes = [table.equals(index) for index in range(0, len(table), 23)]
    spreads = []
    for archs in classes:
        known = [table.accuracy(a) for a in archs if table.known(a, training)]
        if len(known) > 3 and np.mean(known) > 80:
            spreads.append(np.std(known))
    assert len(spreads) > 30
    assert np.median(spreads) < 0.5


@pytest.fixture
def table(tmp_path: Path) -> Benchmark:
    """A small table of cells, with a latency that cannot be one."""
    archs = families.nasbench201_cells()[:40]
    accuracies = [50.0 + i for i in range(40)]
    columns = {"arch": archs, "cifar10_test_acc_200ep": accuracies, "cifar10_valid_acc_12ep": accuracies[::-1]}
    columns["cifar10_valid_seconds_12ep"] = [float(i + 1) for i in range(40)]
    columns["params"] = list(range(40))
    pq.write_table(pa.table(columns), tmp_path / "accuracy.parquet")
    pq.write_table(pa.table({"arch": archs, "phone": [0.01] + [10.0] * 39}), tmp_path / "latency_ms.parquet")
    return tabular("nats-tss", tmp_path)


def test_files_may_be_parts_of_one_table(tmp_path: Path) -> None:
    archs = ["02012100", "20010102", "22222222"]
    for part, rows in enumerate([archs[:2], archs[1:]]):
        low = 90.0 + part
        columns = {
            "arch": rows,
            "test_acc_2": [low, low + 0.5],
            "test_acc_1": [low + 1, np.nan],
            "mean_acc": [1.0, 1.0],
        }
        pq.write_table(pa.table(columns), tmp_path / f"part-{part}.parquet")
    table = tabular("nasbench-macro", tmp_path)
    training = table.training()
    assert [table.labels.trials(table.index(arch), training) for arch in archs] == [2, 2, 1]
    assert table.accuracy(archs[0], trial=0) == 91.0  # test_acc_1
    assert [table.accuracy(arch) for arch in archs] == [90.5, 91.25, 91.5]  # the middle one: a trial of each part
    assert {table.simulate(archs[2], rng=np.random.default_rng(seed)).accuracy for seed in range(8)} == {91.5}
    with pytest.raises(DataError, match="was trained 1 times"):
        table.accuracy(archs[2], trial=1)


def test_parts_of_a_table_of_an_endless_space(tmp_path: Path) -> None:
    archs = [" ".join([first, *("8" * 21)]) for first in "012"]
    for part, rows in enumerate([archs[:2], archs[2:]]):
        table = pa.table({"arch": rows, "phone": [10.0 + part] * len(rows)})
        pq.write_table(table, tmp_path / f"latency-{part}.parquet")
    found = tabular("fbnet", tmp_path)
    assert [found.cost(arch, "latency@phone") for arch in archs] == [10.0, 10.0, 11.0]


def test_lookups(table: Benchmark) -> None:
    arch = table.arch(7)
    assert table.index(arch) == 7 == table.index(table.graph(7))
    assert table.accuracy(7) == table.accuracy(arch) == table.accuracy(table.graph(arch)) == 57.0
    assert table.accuracy(7, split="valid", epochs=12) == table.accuracy(7, split="valid") == 82.0
    assert table.best() == (table.arch(39), 89.0)
    assert table.simulate(7)[:] == (82.0, 8.0, False)
    assert table.cost(7, "parameters") == 7
    assert table.cost(1, "latency@phone") == 10.0
    assert "15,625" in repr(table)
    twins = table.equals("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|")
    assert "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|" in twins


@pytest.mark.parametrize("name", ["nats-tss", "nats-sss", "nasbench-macro", "fbnet"])
def test_a_graph_is_found_again(name: str) -> None:
    space = SPACES[name]
    rng = np.random.default_rng(3)
    for family in space.families:
        for _ in range(4):
            arch = space.choices.arch(space.choices.draw(rng))
            graph = family.build(arch)
            found = space.arch_of(graph)
            assert found is not None
            assert space.function(found) == space.function(arch)


def test_a_network_read_from_torch_is_found() -> None:
    """Skips are no operations there."""
    graph = nats_size("8:8:8:16:16")
    read = load(to_module(untrained(graph, "net", 0)), example_inputs=torch.zeros(2, 3, 32, 32)).graph
    assert read.digest != graph.digest
    assert SPACES["nats-sss"].arch_of(read) == "8:8:8:16:16"


def test_decisions_are_archs() -> None:
    rng = np.random.default_rng(0)
    for space in SPACES.values():
        decisions = space.choices.draw(rng)
        arch = space.choices.arch(decisions)
        assert space.choices.decisions(arch) == decisions
        mutant = space.choices.mutate(decisions, rng)
        assert sum(a != b for a, b in zip(mutant, decisions, strict=True)) == 1
        assert all(0 <= i < size for i, size in zip(mutant, space.choices.sizes, strict=True))


def test_what_is_no_latency() -> None:
    kept = plausible(np.array([10.0, 11.0, 0.9, 12.0, np.nan, 1.2]))
    assert kept.tolist() == [True, True, False, True, False, True]


def test_graphs_of_elsewhere_are_refused(table: Benchmark) -> None:
    with pytest.raises(SourceError, match="is no network of nats-tss"):
        table.accuracy(families.hiaml(["z"] * 4))
    held_out = families.nasbench201_cells()[-1]
    with pytest.raises(DataError, match="has no accuracy of"):
        table.accuracy(nasbench201_benchmark(held_out))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: t.accuracy("|none|"), "is no cell of NAS-Bench-201"),
        (lambda t: t.accuracy(15_625), "architectures 0 to 15624"),
        (lambda t: t.accuracy(0, "cifar10", "valid", 200), "it has: cifar10 test after 200 epochs"),
        (lambda t: t.accuracy(0, "cifar10", trial=1), "was trained 1 times"),
        (lambda t: t.accuracy(0, "cifar10", at=3), "at epoch 3"),
        (lambda t: t.cost(0, "latency@phone"), "has no latency@phone of"),
        (lambda t: t.cost(0, "watts"), "it has: macs, parameters, latency@phone"),
    ],
)
def test_what_the_table_does_not_have(table: Benchmark, ask: object, message: str) -> None:
    assert callable(ask)
    with pytest.raises(NetgraftError, match=message):
        ask(table)


def nats_folder(folder: Path, archs: list[str], record: object, ending: str = ".pbz2") -> Path:
    """A folder as NATS-Bench's own code writes one."""
    folder.mkdir()
    meta = {"meta_archs": archs, "total_archs": len(archs), "arch2infos": None, "evaluated_indexes": set()}
    (folder / f"meta{ending}").write_bytes(bz2.compress(pickle.dumps(meta, protocol=4)))
    (folder / f"000000{ending}").write_bytes(bz2.compress(pickle.dumps(record, protocol=4)))
    return folder


def record(arch: str) -> dict[str, object]:
    """Two trainings of two epochs."""
    runs = {
        ("cifar10-valid", seed): {
            "eval_acc1es": {"x-valid@0": 20.0, "x-valid@1": 30.0 + seed},
            "eval_times": {"x-valid@0": 0.5, "x-valid@1": 0.5},
            "train_times": collections.OrderedDict([(0, 2.0), (1, 3.0)]),
            "flop": np.float64(7.5),
            "params": 0.25,
            "latency": [np.float64(0.002), 0.004],
        }
        for seed in (1, 2)
    }
    state = {"arch_index": 0, "arch_str": arch, "all_results": runs, "dataset_seed": {"cifar10-valid": [1, 2]}}
    return collections.OrderedDict({"02": state})


@pytest.mark.parametrize("ending", [".pickle.pbz2", ".pbz2"])  # the package's own, and that of older copies
def test_a_folder_of_nats_bench(tmp_path: Path, ending: str) -> None:
    archs = list(families.nasbench201_cells())
    table = tabular("nats-tss", nats_folder(tmp_path / "nats", archs, record(archs[0]), ending))
    assert table.accuracy(0, split="valid", epochs=2) == 31.5
    assert table.accuracy(0, split="valid", epochs=2, at=1) == 20.0
    assert table.simulate(0, epochs=2).seconds == 5.5
    assert [table.cost(0, metric) for metric in ("macs", "parameters", "latency")] == [7.5e6, 0.25e6, 3.0]
    with pytest.raises(DataError, match="has no accuracy of"):
        table.accuracy(1, split="valid", epochs=2)


def test_a_file_of_nats_bench_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archs = list(families.nasbench201_cells())
    folder = nats_folder(tmp_path / "nats", archs, record(archs[0]))
    for index in range(1, 30):
        (folder / f"{index:06d}.pbz2").write_bytes(bz2.compress(pickle.dumps(record(archs[index]), protocol=4)))
    read: list[str] = []
    original = nats._read
    monkeypatch.setattr(nats, "_read", lambda path: read.append(path.name) or original(path))
    table = tabular("nats-tss", folder)
    passed: list[int] = []
    for _ in range(2):
        assert table.best("cifar10", "valid", through=lambda all_: passed.extend(all_) or all_)[1] == 31.5
        assert [table.simulate(i, epochs=2).seconds for i in range(30)] == [5.5] * 30
    assert sorted(read) == [*(f"{index:06d}.pbz2" for index in range(30)), "meta.pbz2"]
    assert passed == [*range(len(archs))] * 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("arch_str"),
        lambda state: state.pop("dataset_seed"),
        lambda state: state["dataset_seed"].update({"cifar10-valid": [1, 3]}),
        lambda state: state["all_results"]["cifar10-valid", 1].pop("eval_acc1es"),
        lambda state: state["all_results"]["cifar10-valid", 1].update(eval_acc1es={"x-valid@1": "many"}),
        lambda state: state["all_results"]["cifar10-valid", 1].update(train_times={0: 2.0}),
        lambda state: state["all_results"].update({("cifar10-valid", 2): 7}),
    ],
)
def test_damaged_records_of_nats_bench(tmp_path: Path, damage: Callable[[Any], object]) -> None:
    archs = list(families.nasbench201_cells())
    damaged: Any = record(archs[0])
    damage(damaged["02"])
    table = tabular("nats-tss", nats_folder(tmp_path / "nats", archs, damaged))
    with pytest.raises(DataError, match=r"000000\.pbz2 is damaged"):
        table.best("cifar10", "valid")


def test_records_that_lack_a_training_or_a_cost(tmp_path: Path) -> None:
    archs = list(families.nasbench201_cells())
    first: Any = record(archs[0])
    for run in first["02"]["all_results"].values():
        del run["latency"]
    folder = nats_folder(tmp_path / "nats", archs, first)
    (folder / "000001.pbz2").write_bytes(bz2.compress(pickle.dumps({"12": {}}, protocol=4)))
    table = tabular("nats-tss", folder)
    with pytest.raises(DataError, match=r"000000\.pbz2 is damaged.*'latency'"):
        table.cost(0, "latency")
    with pytest.raises(DataError, match=r"000001\.pbz2 is damaged.*'02'"):
        table.accuracy(1, split="valid")


class Bomb:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("boom",)


def test_folders_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archs = list(families.nasbench201_cells())
    with pytest.raises(DataError, match=r"000000\.pbz2 asks for builtins\.print, which may run code"):
        tabular("nats-tss", nats_folder(tmp_path / "bomb", archs, Bomb()))
    assert capsys.readouterr().out == ""
    with pytest.raises(DataError, match="lists other architectures"):
        tabular("nats-sss", tmp_path / "bomb")
    with pytest.raises(DataError, match="is of another architecture"):
        tabular("nats-tss", nats_folder(tmp_path / "other", archs, record(archs[1]))).accuracy(0, split="valid")
    (tmp_path / "bomb" / "000000.pbz2").write_bytes(b"no bz2 at all")
    with pytest.raises(DataError, match="cannot be unpacked"):
        tabular("nats-tss", tmp_path / "bomb")
    with pytest.raises(DataError, match="does not exist"):
        tabular("nats-tss", tmp_path / "nowhere")
    (tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2").touch()
    with pytest.raises(DataError, match=r"one large file.*take its archive"):
        tabular("nats-tss", tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither"):
        tabular("nats-tss", tmp_path / "empty")
    with pytest.raises(OptionError, match="did you mean 'nats-tss'"):
        tabular("nats-ts", tmp_path)


def test_tables_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        tabular("nats-tss", tmp_path / "a.parquet")
    pq.write_table(pa.table({"cell": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has no column arch; it has: cell"):
        tabular("nats-tss", tmp_path / "a.parquet")
    pq.write_table(pa.table({"arch": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has an arch that the space does not have: 'x'"):
        tabular("nats-tss", tmp_path / "a.parquet")
