"""Published latency tables: their golden numbers, and what is refused."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from netgraft.costs.published import HAQ, CompactNet, ProxylessNAS, SinglePath, additive
from netgraft.costs.published.arrays import arrays
from netgraft.costs.published.compactnet import WHOLE
from netgraft.devices.prior import read_file
from netgraft.errors import DataError, OptionError
from netgraft.table_commands import table_from

# Found by CompactNet on either device: the filters of its released checkpoints.
CPU_15 = (32, 16, 24, 24, 32, 32, 32, 12, 12, 12, 12, 16, 16, 16, 24, 24, 24, 44)
CPU_18 = (32, 12, 20, 20, 24, 24, 24, 12, 12, 12, 12, 22, 22, 22, 24, 24, 24, 44)
NPU_15 = (32, 10, 12, 12, 16, 16, 16, 12, 12, 12, 12, 16, 16, 16, 24, 24, 24, 44)
NPU_13 = (32, 10, 24, 24, 32, 32, 32, 22, 22, 22, 22, 16, 16, 16, 42, 42, 42, 44)

# HAQ's published policy for 60 % of the latency: bits of weights and activations of MobileNetV2's layers.
HAQ_60 = (
    "8-1 77 56 46 56 57 56 74 46 46 77 56 46 73 57 47 73 57 47 77 47 47 64 67 47 74 67 57 74 67 57 74 67 67 64 57 67 "
    "64 57 67 77 47 77 77 47 77 77 47 77 77 47 77 88"
)


@pytest.mark.parametrize(
    ("device", "whole", "ratios"),
    [
        ("cpu", 65.2259, {CPU_15: 1.523, CPU_18: 1.766, NPU_15: 2.228, NPU_13: 1.626}),
        ("npu", 15.5141, {CPU_15: 1.394, CPU_18: 1.429, NPU_15: 1.495, NPU_13: 1.377}),
    ],
)
def test_compactnet(shared_data: Path, device: str, whole: float, ratios: dict[tuple[int, ...], float]) -> None:
    table = CompactNet.load(shared_data / "hardware" / f"compactnet_{device}_latency_ms.npz")
    assert table.latency() == pytest.approx(whole, abs=5e-5)
    for filters, ratio in ratios.items():
        assert table.latency() / table.latency(filters) == pytest.approx(ratio, abs=6e-4)
    with pytest.raises(OptionError, match="18 numbers, each from 1"):
        table.latency((*WHOLE[:-1], 321))


def test_haq(shared_data: Path) -> None:
    table = HAQ.load(shared_data / "hardware" / "haq_mobilenetv2_latency_cycles.npy")
    policy = [(int(pair[0]), int(pair[1:])) for pair in HAQ_60.split()]
    assert table.latency([(8, 8)] * 53) == 39_624_933
    assert table.share(policy) == pytest.approx(0.5965, abs=5e-5)
    as_coded = [(8, 7), *policy[1:]]
    assert table.cycles[0, 7, 7 - 1] == table.cycles[0, 8 - 1, -1 - 1], "where HAQ's own code looks -1 up"
    assert table.share(as_coded) == pytest.approx(0.5914, abs=5e-5)
    shares = [table.share([(b, b)] * 53) for b in range(2, 8)]
    assert shares == pytest.approx([0.178, 0.280, 0.397, 0.528, 0.673, 0.830], abs=5e-4)


def test_proxylessnas(shared_data: Path) -> None:
    table = ProxylessNAS.load(shared_data / "hardware" / "proxyless_mobile_latency.yaml")
    corners = {(e, k): table.latency([(e, k)] * 21) for e in (3, 6) for k in (3, 5, 7)}
    published = {(3, 3): 76.1, (3, 5): 87.7, (3, 7): 103.7, (6, 3): 136.5, (6, 5): 159.0, (6, 7): 191.0}
    assert corners == pytest.approx(published, abs=0.06)
    shorter = [(3, 3), None, *[(3, 3)] * 19]
    assert table.latency(shorter) < corners[3, 3]
    with pytest.raises(OptionError, match="first block of a stage"):
        table.latency([None, *[(3, 3)] * 20])
    with pytest.raises(OptionError, match=r"the table has no expanded_conv.*kernel:9"):
        table.latency([(3, 9)] * 21)


def test_single_path(shared_data: Path) -> None:
    table = SinglePath.load(shared_data / "hardware" / "single_path_pixel1_latency.json")
    corners = [table.latency([block] * 20) for block in ((3, 3), (3, 6), (5, 3), (5, 6))]
    assert corners == pytest.approx([65.69, 110.65, 76.36, 131.46], abs=5e-3)
    with pytest.raises(OptionError, match="first block of a stage"):
        table.latency([None, *[(3, 3)] * 19])


def test_fbnet_devices_are_tables_or_not(shared_data: Path) -> None:
    data = pq.read_table(shared_data / "hardware" / "fbnet_latency_ms.parquet")
    choices = np.array([[int(op) for op in arch.split()] for arch in data["arch"].to_pylist()])
    seen, held = slice(0, 3000), slice(3000, None)

    def error(device: str) -> float:
        """The largest relative error on networks that the table was not made from."""
        times = data[device].to_numpy()
        table = additive(choices[seen], times[seen])
        return float(np.abs(table.latencies(choices[held]) / times[held] - 1).max())

    for device in ("eyeriss", "pixel3"):
        assert error(device) < 1e-9
    assert error("1080ti_1") > 0.05, "measured GPUs are not additive"
    # The all-k3_e1 network, as HW-NAS-Bench's notebook prints it.
    pixel = additive(choices, data["pixel3"].to_numpy())
    assert pixel.latency([0] * 22) == pytest.approx(7.7890, abs=5e-4)
    assert additive(choices, data["eyeriss"].to_numpy()).latency([0] * 22) == pytest.approx(3.9409, abs=5e-4)


@pytest.mark.parametrize(
    ("file", "reader"),
    [
        ("compactnet_cpu_latency_ms.npz", "CompactNet; in Python netgraft.costs.published.CompactNet.load"),
        ("haq_mobilenetv2_latency_cycles.npy", "HAQ; in Python netgraft.costs.published.HAQ.load"),
        ("proxyless_mobile_latency.yaml", "ProxylessNAS; in Python netgraft.costs.published.ProxylessNAS.load"),
        ("single_path_pixel1_latency.json", "Single-Path NAS; in Python netgraft.costs.published.SinglePath.load"),
        ("fbnet_latency_ms.parquet", "FBNet's networks; in Python netgraft.costs.published.additive"),
    ],
)
def test_a_command_that_wants_another_table_says_what_reads_this_one(
    shared_data: Path, tmp_path: Path, file: str, reader: str
) -> None:
    path = shared_data / "hardware" / file
    with pytest.raises(DataError, match=rf"{file} is no latency table .*{reader}"):
        table_from(str(path))
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match=r"or it is damaged or cut short$"):
        table_from(str(cut))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    plain, several, pickled = tmp_path / "a.npy", tmp_path / "a.npz", tmp_path / "p.npy"
    np.save(plain, np.zeros((3, 3)))
    np.savez(several, t00=np.zeros((32, 1)), t01=np.zeros((2, 2)))
    np.save(pickled, np.array([print], dtype=object), allow_pickle=True)
    text = tmp_path / "a.json"
    text.write_text(json.dumps({"1": {"0": 1.0}}))
    for load, path, why in [
        (CompactNet.load, several, r"t01 must have the shape \[16, 32\]"),
        (CompactNet.load, plain, "several are needed"),
        (HAQ.load, plain, "53 layers of 8 by 8 bits"),
        (HAQ.load, pickled, "no file of numpy arrays: it holds pickled objects"),
        (HAQ.load, tmp_path / "none.npy", "cannot be read"),
        (SinglePath.load, text, "options 0 to 3"),
        (ProxylessNAS.load, text, "line 1"),
    ]:
        with pytest.raises(DataError, match=why):
            load(path)


@pytest.mark.parametrize("text", ["e", "-", "1e999", "-1.5", "1.2.3"])
def test_a_mean_that_is_no_time_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"Conv_1:\n  mean: {text}\n")
    with pytest.raises(DataError, match=r"a\.yaml, line 2: .* is no time in ms"):
        ProxylessNAS.load(path)


def header(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    """A .npy file that says it has this shape, and has nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": kind})
    return file.getvalue()


@pytest.mark.parametrize("load", [arrays, read_file])
def test_archives_that_are_damaged_or_meant_to_harm_are_refused(
    load: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, t00=np.arange(1000.0))
    good = path.read_bytes()
    # where the packed bytes begin: another kind of block, and a cut
    start = 30 + int.from_bytes(good[26:28], "little") + int.from_bytes(good[28:30], "little")
    listed = good.index(b"PK\x01\x02") + 8  # the flags of the member where the archive lists it
    damaged = {
        "a deflate block of no kind": good[:start] + b"\xff" * 20 + good[start + 20 :],
        "cut off": good[: len(good) // 2],
        "text": b"PK\x03\x04 and nothing else",
        "an encrypted one": good[:6] + b"\x01" + good[7:listed] + b"\x01" + good[listed + 1 :],
        "nothing": b"",
    }
    for shape, kind in (((1 << 40,), "<f8"), ((1 << 40,), "<U0"), ((-1,), "<f8")):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("t00.npy", header(shape, kind))
        damaged[f"{shape} {kind}"] = path.read_bytes()
    for what, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz is no file of.*(damaged or cut short$|does not fit)"):
            load(path)
            pytest.fail(what)
    path.write_bytes(good)
    monkeypatch.setattr("netgraft.costs.arrays.LARGEST", 8000)
    with pytest.raises(DataError, match="it holds 8,128 bytes, and 8,000 are read at most"):
        load(path)


def test_a_table_is_recovered_from_sums() -> None:
    rng = np.random.default_rng(0)
    entries = rng.random((4, 3))
    choices = rng.integers(0, 3, (60, 4))
    times = entries[np.arange(4), choices].sum(axis=1)
    others = rng.integers(0, 3, (40, 4))
    assert additive(choices, times).latencies(others) == pytest.approx(entries[np.arange(4), others].sum(axis=1))
    with pytest.raises(DataError, match="too few"):
        additive(choices[:8], times[:8])
