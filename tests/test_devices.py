"""Devices from a few measurements: what is predicted, with what interval, and the commands."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from netgraft import device_commands, devices
from netgraft.cli import app
from netgraft.costs.measured import Latency
from netgraft.devices import Known, fit, hardware, read_device, read_measurements, read_sheet, shipped
from netgraft.devices.features import features, live_cell
from netgraft.errors import DataError, NetgraftError, OptionError, SourceError
from netgraft.spaces.families import nasbench201_cells
from netgraft.spaces.families.nasbench201 import operations
from netgraft.spaces.tabular import SPACES, tabular

CELLS = nasbench201_cells()[:1500]


def additive(costs: dict[str, float], level: float, noise: float, seed: int) -> np.ndarray:
    """Latencies (ms) of :data:`CELLS` on a device whose operations have these costs."""
    rng = np.random.default_rng(seed)
    ms = np.array([level + sum(costs[op] for op in operations(cell)) for cell in CELLS])
    return ms * np.exp(noise * rng.standard_normal(len(ms)))


def costs(skip: float, small: float, large: float, pool: float) -> dict[str, float]:
    """The costs of operations."""
    return {"none": 0.0, "skip_connect": skip, "nor_conv_1x1": small, "nor_conv_3x3": large, "avg_pool_3x3": pool}


@pytest.fixture(scope="module")
def known() -> Known:
    """Six invented devices, one of them in two batch sizes."""
    table = {
        "gpu_1": additive(costs(0.1, 1.0, 1.1, 0.8), 5, 0.03, 0),
        "gpu_64": additive(costs(0.1, 0.9, 1.9, 0.7), 6, 0.02, 1),
        "cpu": additive(costs(0.2, 1.0, 4.0, 1.0), 3, 0.03, 2),
        "phone": additive(costs(0.3, 2.0, 5.0, 4.0), 4, 0.05, 3),
        "board": additive(costs(0.1, 1.0, 6.0, 2.5), 9, 0.03, 4),
        "fpga": additive(costs(0.0, 0.4, 2.5, 0.2), 2, 0.01, 5),
    }
    return Known.of("nats-tss", CELLS, table)


@pytest.fixture
def truth() -> np.ndarray:
    """A device that is none of them."""
    return 7 * additive(costs(0.2, 1.4, 3.0, 2.0), 4, 0.0, 9)


def test_a_device_is_known_from_twenty_measurements(known: Known, truth: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    prior = known.prior()
    place = {cell: i for i, cell in enumerate(CELLS)}
    chosen = [place[arch] for arch in prior.plan[:20]]
    seen = truth * np.exp(0.03 * rng.standard_normal(len(truth)))
    device = fit(prior, prior.plan[:20], seen[chosen])
    rest = np.setdiff1d(np.arange(len(CELLS)), chosen)
    found = device.predict([CELLS[i] for i in rest])
    assert spearmanr(found.ms, truth[rest])[0] > 0.98
    assert np.median(np.abs(found.ms / truth[rest] - 1)) < 0.04
    covered = np.mean((seen[rest] > found.low) & (seen[rest] < found.high))
    assert 0.85 < covered <= 1
    assert np.all((found.low < found.ms) & (found.ms < found.high))
    # architectures that no table has are predicted as well
    elsewhere = device.predict(nasbench201_cells()[2000:2010])
    assert np.all(elsewhere.ms > 0)


def test_the_unit_does_not_matter(known: Known, truth: np.ndarray) -> None:
    prior = known.prior()
    ms = truth[[CELLS.index(arch) for arch in prior.plan[:10]]]
    one, thousand = (fit(prior, prior.plan[:10], scale * ms).predict(CELLS[:50]).ms for scale in (1, 1000))
    # a speed has a prior of its own, hardly any at that
    assert thousand == pytest.approx(1000 * one, rel=0.02)


def test_what_is_left_out_is_not_used(known: Known) -> None:
    without = known.prior(without=["gpu_1", "gpu_64"])
    again = Known.of("nats-tss", CELLS, {}).weights | {
        k: w for k, w in known.weights.items() if not k.startswith("gpu")
    }
    same = Known("nats-tss", known.archs, known.centre, known.rows, again).prior()
    assert without.devices == ("cpu", "phone", "board", "fpga")
    assert np.array_equal(without.mean, same.mean) and without.plan == same.plan
    # two batch sizes of one hardware count as one device
    twice = known.weights | {"cpu_7": known.weights["cpu"]}
    doubled = Known("nats-tss", known.archs, known.centre, known.rows, twice).prior()
    assert doubled.mean == pytest.approx(known.prior().mean)
    spreads = [prior.directions.T @ prior.directions for prior in (doubled, known.prior())]
    assert spreads[0] == pytest.approx(spreads[1])
    with pytest.raises(DataError, match="two devices at least"):
        known.prior(without=["cpu", "phone", "board", "fpga"])


def test_hardware_is_a_name_without_its_batch_size() -> None:
    names = ["titan_rtx_256", "1080ti_1", "gold_6226", "silver_4210r", "essential_ph_1", "pixel3", "samsung_a50"]
    assert [hardware(name) for name in names] == [
        *("titan_rtx", "1080ti", "gold_6226", "silver_4210r", "essential_ph", "pixel3", "samsung_a50")
    ]


def test_plans_are_prefixes_and_their_architectures_differ(known: Known) -> None:
    prior = known.prior()
    assert len(set(prior.plan)) == 40
    assert known.prior(planned=10).plan == prior.plan[:10]


def test_dead_operations_are_told_apart() -> None:
    live = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
    dead = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
    assert not np.array_equal(*features("nats-tss", [live, dead]))


def test_a_device_that_leaves_out_dead_operations(known: Known, truth: np.ndarray) -> None:
    """It is known as one from its measurements, and predicted as well as the others."""
    place = {cell: i for i, cell in enumerate(nasbench201_cells())}
    every = 7 * np.array([4 + sum(costs(0.2, 1.4, 3.0, 2.0)[op] for op in operations(c)) for c in nasbench201_cells()])
    pruned = every[[place[live_cell(cell)] for cell in CELLS]]
    prior = known.prior()
    chosen = [CELLS.index(arch) for arch in prior.plan[:20]]
    device = fit(prior, prior.plan[:20], pruned[chosen])
    assert device.way == "what depends on the input"
    assert spearmanr(device.predict(CELLS).ms, pruned)[0] > 0.98
    assert fit(prior, prior.plan[:20], truth[chosen]).way == "everything"


def test_a_wrong_measurement_stands_out(known: Known, truth: np.ndarray) -> None:
    prior = known.prior()
    ms = truth[[CELLS.index(arch) for arch in prior.plan[:20]]]
    ms[4] /= 30
    assert int(np.argmax(np.abs(fit(prior, prior.plan[:20], ms).surprises()))) == 4


def test_saved_and_read(known: Known, truth: np.ndarray, tmp_path: Path) -> None:
    prior = known.prior()
    ms = truth[[CELLS.index(arch) for arch in prior.plan[:10]]]
    device = fit(prior, prior.plan[:10], ms)
    device.save(tmp_path / "my.device")
    again = read_device(tmp_path / "my.device")
    assert (again.archs, again.ms.tolist()) == (device.archs, device.ms.tolist())
    assert again.predict(CELLS[:20]).ms == pytest.approx(device.predict(CELLS[:20]).ms, rel=1e-4)
    devices.save(prior, tmp_path / "prior.npz")
    assert devices.load(tmp_path / "prior.npz").plan == prior.plan
    with pytest.raises(DataError, match="holds a prior but no device"):
        read_device(tmp_path / "prior.npz")
    devices.save(replace(prior, mean=prior.mean * np.nan), tmp_path / "prior.npz")
    with pytest.raises(DataError, match="is damaged"):
        devices.load(tmp_path / "prior.npz")


@pytest.mark.parametrize("space", ["nats-tss", "fbnet"])
def test_shipped_priors(space: str) -> None:
    prior = shipped(space)
    assert len(prior.devices) == {"nats-tss": 22, "fbnet": 24}[space]
    assert len(set(prior.plan)) == 40
    choices = SPACES[space].choices
    assert [choices.arch(choices.decisions(arch)) for arch in prior.plan] == list(prior.plan)
    assert shipped("nasbench201").plan == shipped("nats-tss").plan
    assert prior.rows(prior.plan).shape == (40, len(prior.mean))


def test_the_shipped_prior_is_what_the_table_gives(shared_data: Path) -> None:
    table = tabular("fbnet", shared_data / "hardware" / "fbnet_latency_ms.parquet")
    costs = [(metric.partition("@")[2], metric) for metric in table.labels.metrics]
    columns = {d: np.array([table.labels.cost(i, m) for i in range(len(table))], dtype=np.float64) for d, m in costs}
    prior, kept = Known.of("fbnet", table.archs, columns).prior(planned=5), shipped("fbnet")
    assert prior.devices == kept.devices
    assert prior.mean == pytest.approx(kept.mean, abs=1e-5)
    assert prior.directions == pytest.approx(kept.directions, abs=1e-5)
    assert prior.plan == kept.plan[:5]


def test_leaving_hardware_out_on_the_real_table(shared_data: Path) -> None:
    """Three of the 22 devices, with everything of the same hardware left out: a GPU, a CPU and an accelerator."""
    table = tabular("nats-tss", shared_data / "nasbench201" / "latency_ms.parquet")
    costs = [(metric.partition("@")[2], metric) for metric in table.labels.metrics]
    found = {device: [table.labels.cost(i, metric) for i in range(len(table))] for device, metric in costs}
    columns = {device: np.array(column, dtype=np.float64) for device, column in found.items()}
    rows = np.flatnonzero(~np.isnan(columns["eyeriss"]))[::4]
    archs = [table.archs[i] for i in rows]
    latencies = {device: column[rows] for device, column in columns.items()}
    known = Known.of("nats-tss", archs, latencies)
    place = {arch: i for i, arch in enumerate(archs)}
    for device, least in [("2080ti_32", 0.98), ("silver_4210r", 0.985), ("eyeriss", 0.96)]:
        prior = known.prior(without=[d for d in latencies if hardware(d) == hardware(device)], planned=20)
        chosen = [place[arch] for arch in prior.plan]
        ms = latencies[device]
        rest = np.setdiff1d(np.arange(len(archs)), chosen)
        found = fit(prior, prior.plan, ms[chosen]).predict([archs[i] for i in rest])
        assert spearmanr(found.ms, ms[rest])[0] > least


@pytest.mark.parametrize(
    ("archs", "ms", "message"),
    [
        (CELLS[:4], [1.0] * 4, "4 architectures were measured; 5 are needed"),
        (CELLS[:6], [1.0] * 5, "6 architectures, but 5 times"),
        (CELLS[:6], [1.0] * 5 + [0.0], r"cannot have taken 0\.0 ms"),
        (CELLS[:6], [1.0] * 5 + [float("nan")], "cannot have taken nan ms"),
        ([*CELLS[:5], "|conv|"], [1.0] * 6, "is no cell of NAS-Bench-201"),
    ],
)
def test_measurements_that_make_no_sense(archs: list[str], ms: list[float], message: str) -> None:
    with pytest.raises(NetgraftError, match=message):
        fit(shipped("nats-tss"), archs, ms)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(DataError, match="'netgraft device plan' writes one"):
        read_measurements(path)
    path.write_text("arch,time\n")
    with pytest.raises(DataError, match="needs the columns arch and ms"):
        read_measurements(path)
    path.write_text("arch,ms\na,1\nb,fast\n")
    with pytest.raises(DataError, match="line 3: 'fast' is no time"):
        read_measurements(path)
    path.write_text("arch,ms\na,1.5\nb,\n\n")
    assert read_measurements(path) == (["a"], [1.5])
    with pytest.raises(DataError, match="is no file of 'netgraft device'"):
        read_device(path)
    np.savez(tmp_path / "y.npz", space=np.array("fbnet"))
    with pytest.raises(DataError, match="it has no"):
        read_device(tmp_path / "y.npz")
    with pytest.raises(OptionError, match="there are: nats-tss, fbnet"):
        shipped("nats-sss")
    with pytest.raises(SourceError):
        features("fbnet", ["1 2 3"])


def invoke(*words: str | Path) -> tuple[int, str]:
    """Exit code and output of ``netgraft device``."""
    result = CliRunner().invoke(app, ["device", *map(str, words)])
    return result.exit_code, result.output


def test_commands(tmp_path: Path) -> None:
    plan, device, out = tmp_path / "plan.csv", tmp_path / "my.device", tmp_path / "out.csv"
    code, output = invoke("plan", "--space", "nasbench201", "--count", 10)
    assert code == 0 and len(output.splitlines()) == 11 and output.startswith("arch,ms\n|")
    assert invoke("plan", "--space", "nasbench201", "--count", "10", "--out", plan)[0] == 0
    assert invoke("plan", "--space", "nasbench201", "--out", plan) == (
        2,
        f"error: {plan} exists; a plan never overwrites measurements\n",
    )
    with plan.open() as file:
        archs = [row["arch"] for row in csv.DictReader(file)]
    assert archs == list(shipped("nats-tss").plan[:10])
    lines = [f"{arch},{5 + sum(op == 'nor_conv_3x3' for op in operations(arch))}" for arch in archs]
    plan.write_text("\n".join(["arch,ms", *lines]))
    code, output = invoke("fit", plan, "--space", "nasbench201", "--out", device)
    assert code == 0 and "10 measurements from 5 to" in output
    code, output = invoke("predict", device, CELLS[0], CELLS[1])
    assert code == 0 and len(output.splitlines()) == 2 and CELLS[1] in output
    (tmp_path / "archs.txt").write_text("\n".join(CELLS[:5]))
    assert invoke("predict", device, "--file", tmp_path / "archs.txt", "--out", out)[0] == 0
    rows = list(csv.DictReader(out.open()))
    assert [row["arch"] for row in rows] == list(CELLS[:5])
    assert all(float(row["low"]) < float(row["ms"]) < float(row["high"]) for row in rows)
    for words, message in [
        (("predict", device), "name architectures"),
        (("predict", device, "abc"), "is no cell"),
        (("predict", plan, CELLS[0]), "is no file of 'netgraft device'"),
        (("fit", tmp_path / "none.csv", "--space", "fbnet", "--out", device), "does not exist"),
        (("fit", plan, "--space", "fbnet", "--out", device), "is no network of FBNet"),
        (("fit", plan, "--space", "nasbench201", "--out", tmp_path), "is no file that can be written"),
        (("plan", "--space", "resnet"), "no devices are known for the space 'resnet'"),
    ]:
        code, output = invoke(*words)
        assert code == 2
        assert message in output


def test_measuring_a_plan(tmp_path: Path) -> None:
    """What is measured already is not measured again."""
    out = tmp_path / "m.csv"
    archs = shipped("fbnet").plan[:5]
    out.write_text("\n".join(["arch,ms", *(f"{arch},2.5" for arch in archs[:4])]))
    code, output = invoke("measure", "--space", "fbnet", "--count", 5, "--seconds", "1", "--out", out)
    assert code == 0 and "\n5 of 5: " in output
    found = dict(zip(*read_measurements(out), strict=True))
    assert list(found) == list(archs)
    assert [found[arch] for arch in archs[:4]] == [2.5] * 4
    assert 0.1 < found[archs[4]] < 1000


def test_a_file_of_measurements_keeps_its_setting_and_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One setting a file; planned rows, other columns and repeated measurements stay; a stop loses nothing."""
    times = iter([3.0, 4.0, KeyboardInterrupt(), 5.0])

    def measured(*_: object, **__: object) -> Latency:
        time = next(times)
        if isinstance(time, BaseException):
            raise time
        return Latency(time, time, time, 10, False, "thread")

    monkeypatch.setattr(device_commands, "measure_one", measured)
    out, archs = tmp_path / "m.csv", shipped("fbnet").plan
    planned = [f"{arch},,mine" for arch in archs[:7]]
    out.write_text("\n".join(["arch,ms,note", f"{archs[0]},2.5,a", f"{archs[0]},2.75,b", *planned[1:]]))
    words = ("measure", "--space", "fbnet", "--count", 5, "--out", out)
    code, output = invoke(*words)
    assert code != 0 and "does not say what its times were measured in" in output
    text = out.read_text()
    assert text.startswith("# engine onnxruntime, precision fp32, batch 1, threads 1, on this machine\narch,ms,note\n")
    assert read_measurements(out) == ([archs[0], archs[0], archs[1], archs[2]], [2.5, 2.75, 3.0, 4.0])
    assert [row["arch"] for row in read_sheet(out).rows] == [archs[0], *archs[:7]]
    assert [row["note"] for row in read_sheet(out).rows] == ["a", "b", *["mine"] * 6]
    for option in (
        ("--engine", "torch"),
        ("--precision", "int8"),
        ("--batch", 2),
        ("--threads", 2),
        ("--on", "ssh://there"),
    ):
        code, output = invoke(*words, *option)
        assert code == 2 and "holds times of another setting (engine onnxruntime" in output
        assert out.read_text() == text
    with pytest.raises(DataError, match="line 3: 'fast'"):
        (tmp_path / "wrong.csv").write_text("# engine\narch,ms\na,fast\n")
        read_measurements(tmp_path / "wrong.csv")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", stopped)
        with pytest.raises(KeyboardInterrupt):
            read_sheet(out).write(out)
    assert out.read_text() == text
