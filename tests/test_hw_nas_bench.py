"""HW-NAS-Bench's file: the published one is not at hand, so a tiny one of its exact layout is written here.

The layout is that of ``hw_nas_bench_api`` 1.0: lists by index for NAS-Bench-201's cells, entries of blocks by their
sizes for FBNet's space. The numbers of NAS-Bench-201 are those that its example prints for architecture 0, those of
FBNet's space are recovered from 5,000 published latencies.
"""

from __future__ import annotations

import pickle
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from netgraft.cli import app
from netgraft.errors import DataError, NetgraftError
from netgraft.spaces import families
from netgraft.spaces.families import fbnet, nasbench201_benchmark
from netgraft.spaces.families.fbnet import LAYERS, STAGES
from netgraft.spaces.tabular import tabular
from netgraft.spaces.tabular.hardware import _SETTINGS, parts

CELLS = list(families.nasbench201_cells())
PRINTED = {
    "edgegpu_latency": 5.807418537139893,
    "edgegpu_energy": 24.226614330768584,
    "raspi4_latency": 10.481976820010459,
    "edgetpu_latency": 0.9571811309997429,
    "pixel3_latency": 3.6058499999999998,
    "eyeriss_latency": 3.645620000000001,
    "eyeriss_energy": 0.6872827644999999,
    "eyeriss_arithmetic_intensity": 6.289297634665844,
    "fpga_latency": 2.57296,
    "fpga_energy": 18.01072,
}
ALL_K3_E1 = " ".join("0" * 22)


def cells(factor: float = 1.0) -> dict[str, Any]:
    """The columns of one data set: of architecture 0 as printed, then a little more for each one."""
    columns: dict[str, Any] = {
        name: [value * factor * (1 + 1e-4 * i) for i in range(len(CELLS))] for name, value in PRINTED.items()
    }
    columns["edgetpu_latency"] = np.array(columns["edgetpu_latency"])
    columns["raspi4_latency"] = [np.float64(value) for value in columns["raspi4_latency"]]
    if factor == 1:  # the others have it, too, which takes a while to read
        columns["config"] = [
            {"name": "infer.tiny", "C": 16, "N": 5, "arch_str": arch, "num_classes": 10} for arch in CELLS
        ]
    return columns


def blocks() -> dict[str, dict[str, float]]:
    """An entry for whatever a network of either data set needs, all different."""
    rng = np.random.default_rng(0)
    archs = [" ".join(str(kind) * 22) for kind in range(len(LAYERS))]
    names = sorted({name for setting in _SETTINGS for arch in archs for name in parts(arch, setting)})
    metrics = [m for m in PRINTED if not m.startswith(("edgetpu", "eyeriss_arith"))]
    return {metric: {name: float(rng.uniform(0.1, 1)) for name in names} for metric in metrics}


def written(folder: Path, **held: Any) -> Path:
    """The file, as ``pickle.dump`` wrote it in Python 3.6; what a test does not ask for is left empty, to be quick."""
    held = {"nasbench201": {}, "fbnet": {}} | held
    path = folder / "HW-NAS-Bench-v1_0.pickle"
    path.write_bytes(pickle.dumps(held, protocol=3))
    return path


def test_cells_cost_what_the_file_lists(tmp_path: Path) -> None:
    listed = {"cifar10": cells(), "cifar100": cells(2.0), "ImageNet16-120": cells(0.5)}
    table = tabular("nats-tss", written(tmp_path, nasbench201=listed))
    assert table.cost(0, "latency@raspi4") == PRINTED["raspi4_latency"]
    assert table.cost(CELLS[0], "energy@fpga") == PRINTED["fpga_energy"]
    assert table.cost(nasbench201_benchmark(CELLS[7]), "latency@edgetpu") == pytest.approx(
        PRINTED["edgetpu_latency"] * 1.0007
    )
    assert table.cost(0, "latency@eyeriss/cifar100") == 2 * PRINTED["eyeriss_latency"]
    assert table.cost(0, "intensity@eyeriss/imagenet16-120") == PRINTED["eyeriss_arithmetic_intensity"] / 2
    # The product as the example prints it.
    assert table.cost(0, "average_hw_metric") == pytest.approx(591005.8676719831)
    assert table.cost(0, "macs") == 15_647_370
    with pytest.raises(DataError, match="has no 'latency@phone'; it has: macs, parameters, latency@edgegpu"):
        table.cost(0, "latency@phone")


def test_beside_accuracies(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "nats_bench" / "NATS-tss-v1_0-3ffb9-simple"
    columns = {name: values for name, values in cells().items() if name == "fpga_latency"}
    table = tabular("nats-tss", [folder, written(tmp_path, nasbench201={"cifar10": columns})])
    assert table.accuracy(11, "cifar10", "valid", 200) > 87
    assert table.cost(11, "latency@fpga") == pytest.approx(PRINTED["fpga_latency"] * 1.0011)
    assert table.cost(11, "latency") > 0  # NATS-Bench's own, on its GPU


def test_networks_of_fbnet_are_sums(tmp_path: Path) -> None:
    table = tabular("fbnet", written(tmp_path, fbnet=blocks()))
    entries = blocks()["pixel3_latency"]
    size, own, expected = 32, 16, entries["ConvNorm_H32_W32_Cin3_Cout16_kernel3_stride1_group1"]
    for channels, depth, first in STAGES:
        for number in range(depth):
            stride = 1 if number else first
            block = f"H{size}_W{size}_Cin{own}_Cout{channels}_exp1_kernel3_stride{stride}_group1"
            expected += entries[f"ConvBlock_{block}"]
            size, own = size // stride, channels
    expected += entries["ConvNorm_H4_W4_Cin352_Cout1504_kernel1_stride1_group1"]
    expected += entries["AvgP_H4_W4_Cin1504_Cout1504_kernel4_stride1"] + entries["FC_Cin1504_Cout100"]
    assert table.cost(ALL_K3_E1, "latency@pixel3") == pytest.approx(expected)
    assert table.cost(fbnet(ALL_K3_E1), "latency@pixel3") == pytest.approx(expected)
    costs = table.costs(ALL_K3_E1)
    assert costs["average_hw_metric"] == pytest.approx(
        prod(value for metric, value in costs.items() if "@" in metric and "/" not in metric)
    )
    large = list(parts(ALL_K3_E1, _SETTINGS[1]))
    assert large[0] == "ConvNorm_H224_W224_Cin3_Cout16_kernel3_stride2_group1"
    assert large[-2:] == ["AvgP_H7_W7_Cin1984_Cout1984_kernel7_stride1", "FC_Cin1984_Cout1000"]
    with pytest.raises(NetgraftError, match="is no network of FBNet's space"):
        table.cost("0 0 9", "latency@pixel3")
    with pytest.raises(DataError, match="has no list of architectures, not 3"):
        table.cost(3, "latency@pixel3")


def test_published_latencies_of_fbnet_come_back(tmp_path: Path, shared_data: Path) -> None:
    """Entries that explain 3,000 published latencies of a device, under the names that the file gives them, give the
    other 2,000: so the parts of a network are named and shared as its makers measured them.
    """
    data = pq.read_table(shared_data / "hardware" / "fbnet_latency_ms.parquet")
    archs, times = data["arch"].to_pylist(), data["eyeriss"].to_numpy()
    every = [list(parts(arch)) for arch in archs]
    place = {name: i for i, name in enumerate(sorted({name for names in every for name in names}))}
    counts = np.zeros((len(archs), len(place)))
    for row, names in zip(counts, every, strict=True):
        for name in names:
            row[place[name]] += 1
    entries, *_ = np.linalg.lstsq(counts[:3000], times[:3000])
    tables = {"eyeriss_latency": {name: float(entries[i]) for name, i in place.items()}}
    table = tabular("fbnet", written(tmp_path, fbnet=tables))
    found = np.array([table.cost(arch, "latency@eyeriss") for arch in archs[3000:]])
    assert np.abs(found / times[3000:] - 1).max() < 1e-9
    # As the benchmark's notebook prints it.
    assert table.cost(ALL_K3_E1, "latency@eyeriss") == pytest.approx(3.9409, abs=5e-4)


class Bomb:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("boom",)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        ("nats-tss", {"nasbench201": {"cifar10": {"fpga_latency": [1.0, 2.0]}}}, r"\(2,\) values of fpga_latency"),
        ("nats-tss", {"nasbench201": {"cifar10": {"config": [{"arch_str": "|none~0|"}]}}}, "other architectures"),
        ("nats-tss", {"nasbench201": {"cifar10": {"config": [{}]}}}, "is damaged.*KeyError"),
        ("nats-tss", {"nasbench201": {"cifar10": {"fpga_latency": ["x"] * 15_625}}}, "is damaged.*ValueError"),
        ("nats-tss", {"nasbench201": [1]}, "is damaged"),
        ("fbnet", {"fbnet": {"fpga_latency": {"FC_Cin1504_Cout100": 1.0}}}, "has no entry 'ConvNorm_H32"),
        ("nasbench-macro", {}, "which has nats-tss and fbnet, but no nasbench-macro"),
        ("fbnet", {"fbnet": Bomb()}, "asks for builtins.print, which may run code"),
    ],
)
def test_files_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], space: str, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        tabular(space, path).cost(ALL_K3_E1 if space == "fbnet" else 0, "latency@fpga")
    assert capsys.readouterr().out == ""
    path.write_bytes(pickle.dumps({"cifar10": {}}))
    with pytest.raises(DataError, match="that holds nasbench201 and fbnet"):
        tabular(space, path)


def test_on_the_command_line(tmp_path: Path) -> None:
    columns = {name: values for name, values in cells(2.0).items() if name.startswith("edgegpu")}
    path = str(written(tmp_path, nasbench201={"cifar100": columns}, fbnet=blocks()))
    shown = CliRunner().invoke(app, ["bench", "query", "nats-tss", "0", "--data", path]).output
    assert "energy@edgegpu/cifar100" in shown and "48.4532 mJ" in shown and "11.6148 ms" in shown
    shown = CliRunner().invoke(app, ["bench", "query", "fbnet", ALL_K3_E1, "--data", path]).output
    assert "latency@raspi4/imagenet" in shown and "macs" in shown
    refused = CliRunner().invoke(app, ["bench", "run", "nats-tss", "--data", path])
    assert refused.exit_code == 2 and "no accuracies at all" in refused.output
