"""The engines: each computes what the others do, or says what is missing. No test looks at how long anything took."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from studies import finished, resnet
from test_measured import tiny
from torch import nn

import netgraft as ng
from netgraft.convert.onnx import to_onnx
from netgraft.convert.to_torch import to_module
from netgraft.costs.measured import ENGINES, Variant, compare, engines, footprint, measure, sampling
from netgraft.costs.measured.flags import has_bf16
from netgraft.costs.measured.networks import Input, Setting
from netgraft.costs.measured.sampling import Subject, _pinned
from netgraft.errors import MeasureError, OptionError
from netgraft.ir import Model, untrained
from netgraft.report.page import render

registry = sys.modules["netgraft.costs.measured.engines"]
energy_module = sys.modules["netgraft.costs.measured.energy"]


@pytest.fixture(scope="module")
def model() -> Model:
    """A few layers of every kind that engines treat on their own."""
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5)
    )
    return ng.load(layers.eval(), example_inputs=torch.randn(2, 3, 8, 8))


def engine_or_skip(name: str) -> Any:
    try:
        return registry.engine(name)
    except MeasureError as error:
        pytest.skip(str(error))


def result(variant: Variant, batch: int) -> tuple[np.ndarray[Any, Any], Mapping[str, np.ndarray[Any, Any]]]:
    """What a fresh session gives, and what it was fed with."""
    engine = engine_or_skip(variant.engine)
    if engine.lacks(variant.precision):
        pytest.skip(engine.lacks(variant.precision))
    with engine.running(1):
        subject = Subject("the model", variant, Setting(batch, 1))
        first, second = subject.open()(), subject.open()()
    found = [next(iter(r.values())) if hasattr(r, "to_dict") else r for r in (first, second)]
    found = [r[0] if isinstance(r, list) else r for r in found]
    arrays = [r.float().numpy() if isinstance(r, torch.Tensor) else np.asarray(r) for r in found]
    np.testing.assert_array_equal(arrays[0], arrays[1])
    return arrays[0], subject.feed


@pytest.mark.parametrize(
    ("engine", "precision", "tolerance"),
    [
        ("onnxruntime", "fp32", 1e-5),
        ("openvino", "fp32", 1e-5),
        ("torch", "fp32", 1e-5),
        ("torch.compile", "fp32", 1e-5),
        ("executorch", "fp32", 1e-5),
        ("openvino", "bf16", 3e-2),
        ("torch", "bf16", 3e-2),
        ("onnxruntime", "int8", 5e-2),
        ("openvino", "int8", 5e-2),
    ],
)
def test_every_engine_computes_the_network_in_the_precision_asked_for(
    model: Model, engine: str, precision: str, tolerance: float
) -> None:
    got, feed = result(Variant(model, engine, precision), batch=3)
    with torch.no_grad():
        want = to_module(model).eval()(*map(torch.tensor, feed.values())).numpy()
    assert got.shape == want.shape == (3, 5)
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error < tolerance
    if precision != "fp32":
        assert error > 1e-5, "it was computed in fp32 after all"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch", "executorch"])
def test_measuring_and_comparing_in_an_engine(model: Model, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_or_skip(engine)
    monkeypatch.setattr(sampling, "processors", lambda: 2)
    found = measure(model, engine=engine, batch=2, seconds=0)
    assert 0 < found.low_ms < found.median_ms < found.high_ms
    assert found.clock in ("thread", "process") or sys.platform == "win32"
    (ratio,) = compare([model], to_onnx(model), engine=engine, threads=2, seconds=0)
    assert ratio.low < ratio.ratio < ratio.high and ratio.clock == "wall"


def test_two_engines_in_one_comparison(model: Model) -> None:
    (ratio,) = compare([Variant(model, "torch")], model, seconds=0)
    assert ratio.model_ms > 0 and ratio.baseline_ms > 0


def test_int8_uses_the_inputs_it_is_given(model: Model) -> None:
    """Calibrated on inputs of nothing but zeros, a quantised network cannot tell others apart as well."""
    name = onnx.load_from_string(to_onnx(model)).graph.input[0].name
    zeros = [{name: np.zeros((3, 3, 8, 8), np.float32)}]
    with_random, _ = result(Variant(model, precision="int8"), 3)
    with_zeros, _ = result(Variant(model, precision="int8", calibration=zeros), 3)
    assert not np.allclose(with_random, with_zeros, atol=1e-2)


def test_torch_keeps_its_threads_and_its_gradients(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(sampling, "processors", lambda: before + 1)
    measure(model, engine="torch", threads=before + 1, seconds=0)
    assert torch.get_num_threads() == before and torch.is_grad_enabled()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin threads")
def test_one_thread_stays_on_a_core_and_may_move_again() -> None:
    allowed = os.sched_getaffinity(0)
    with _pinned(1):
        assert len(os.sched_getaffinity(0)) == 1 and os.sched_getaffinity(0) <= allowed
    assert os.sched_getaffinity(0) == allowed
    with _pinned(2):
        assert os.sched_getaffinity(0) == allowed


def test_an_engine_that_works_in_another_thread_is_read_by_the_clock_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Elsewhere:
        inputs = (Input("x", (1,), "float32"),)

        def open(self, _: object) -> Callable[[], None]:
            def work() -> None:
                end = time.thread_time() + 2e-3
                while time.thread_time() < end:
                    pass

            def session() -> None:
                worker = threading.Thread(target=work)
                worker.start()
                worker.join()

            return session

    engine = registry.engine("onnxruntime")
    subject = Subject("here", Variant(tiny()), Setting(1, 1))
    assert subject.clock == "thread"
    monkeypatch.setattr(type(engine), "load", lambda *_: Elsewhere())
    assert Subject("elsewhere", Variant(tiny()), Setting(1, 1)).clock == "process"


# --- memory and size ---


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc")
def test_memory_grows_with_the_weights_and_int8_makes_the_file_smaller() -> None:
    small, large = (untrained(resnet(blocks=1), "small"), wide())
    footprints = [footprint(m) for m in (small, large)]
    size = len(to_onnx(large))
    assert footprints[1].file == size > 15e6
    assert footprints[1].memory > footprints[0].memory + 0.5 * size
    assert footprint(large, precision="int8").file < 0.3 * size


def wide() -> Model:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10))
    return ng.load(layers, example_inputs=torch.randn(2, 2048))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc")
def test_the_process_that_measures_memory_says_what_went_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(MeasureError, match=r"onnxruntime cannot load the model"):
        footprint(tmp_path / "bad.onnx")


# --- what is refused ---


def test_engines_are_found_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "onnxruntime" in engines() and "torch" in engines() and set(engines()) <= set(ENGINES)
    with pytest.raises(OptionError, match=r"no engine 'abacus'.*onnxruntime, openvino"):
        measure(tiny(), engine="abacus")
    with pytest.raises(OptionError, match="did you mean 'litert'"):
        measure(tiny(), engine="tflite")
    for name in ("tvm", "tensorrt"):
        with pytest.raises(MeasureError, match=rf"cannot measure in {name} yet: .*there is onnxruntime"):
            measure(tiny(), engine=name)
    for module in ("openvino_cpu", "litert", "executorch_cpu"):
        monkeypatch.setattr(f"netgraft.costs.measured.{module}.find_spec", lambda _: None)
    with pytest.raises(MeasureError, match=r"openvino is not installed here: pip install 'netgraft\[openvino\]'"):
        measure(tiny(), engine="openvino")
    with pytest.raises(MeasureError, match=r"pip install 'netgraft\[litert\]'"):
        measure(tiny(), engine="litert")
    with pytest.raises(MeasureError, match=r"pip install 'netgraft\[executorch\]'"):
        measure(tiny(), engine="executorch")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MeasureError, match="install a C\\+\\+ compiler"):
        measure(tiny(), engine="torch.compile")
    assert "openvino" not in engines()


def test_precisions_are_found_or_refused(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    with pytest.raises(OptionError, match="no precision 'fp4'; there is fp32, bf16, int8"):
        measure(tiny(), precision="fp4")
    with pytest.raises(MeasureError, match="in bf16: it computes no convolutions in bf16 on a CPU; openvino and torch"):
        measure(tiny(), precision="bf16")
    with pytest.raises(MeasureError, match="in int8: quantised networks are measured in onnxruntime or openvino"):
        measure(model, engine="torch", precision="int8")
    monkeypatch.setattr("netgraft.costs.measured.torch_cpu.has_bf16", lambda: False)
    with pytest.raises(MeasureError, match="no bf16 instructions"):
        measure(model, engine="torch", precision="bf16")


@pytest.mark.parametrize(("flags", "has"), [("fpu avx512_bf16", True), ("fpu amx_bf16", True), ("fpu avx512f", False)])
def test_bf16_is_read_from_the_processors_flags(monkeypatch: pytest.MonkeyPatch, flags: str, has: bool) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: f"processor : 0\nflags\t\t: {flags}\n")
    has_bf16.cache_clear()
    try:
        assert has_bf16() is has
    finally:
        has_bf16.cache_clear()


def test_a_file_that_only_another_engine_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"")
    with pytest.raises(MeasureError, match=r"net\.tflite can only be run by the engine that its form was made for"):
        measure(tmp_path / "net.tflite")


@pytest.mark.parametrize(
    ("limits", "engine"), [([], "onnxruntime"), (["flops<=1x", "latency<=0.6x@openvino"], "openvino")]
)
def test_the_report_names_the_engine_that_was_measured_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: list[str], engine: str
) -> None:
    with finished(tmp_path / "run") as study:
        monkeypatch.setattr(study, "settings", {**study.settings, "limits": limits})
        assert f"is measured: in {engine} on the processor" in " ".join(render(study).split())


ZONES = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:2": "psys", "intel-rapl:0:0": "core"}


def zones(at: Path, names: Mapping[str, str], range_uj: int) -> None:
    """RAPL's folders, as Linux shows them."""
    for zone, name in names.items():
        (at / zone).mkdir()
        (at / zone / "name").write_text(f"{name}\n")
        (at / zone / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (at / zone / "energy_uj").write_text("900\n")


def test_energy_is_what_the_counters_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Packages count, parts of them and the whole platform do not, and a counter may start again."""
    zones(tmp_path, ZONES, 1000)
    monkeypatch.setattr(energy_module, "COUNTERS", tmp_path)
    before = energy_module._read()
    assert set(before) == {"intel-rapl:0", "intel-rapl:1"}
    for zone, count in (("intel-rapl:0", 950), ("intel-rapl:1", 100), ("intel-rapl:2", 980), ("intel-rapl:0:0", 999)):
        (tmp_path / zone / "energy_uj").write_text(f"{count}\n")
    assert energy_module._used(before, energy_module._read()) == pytest.approx((50 + 200) * 1e-6)


def test_energy_is_refused_where_nothing_counts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(energy_module, "COUNTERS", tmp_path)
    with pytest.raises(MeasureError, match="no energy counters"):
        energy_module.energy(b"never read")


def test_energy_of_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two packages that take 5 watts each; a run takes 10 ms and 0.25 joules of each package more."""
    zones(tmp_path, ZONES, 10**12)
    clock = {"us": 0, "uj": 0}

    def passes(us: int, uj: int) -> None:
        clock["us"] += us
        clock["uj"] += 5 * us + uj
        for zone in ZONES:
            (tmp_path / zone / "energy_uj").write_text(f"{clock['uj']}\n")

    class Counted(Subject):
        """A subject whose real runs take time and energy of the imagined machine."""

        def open(self) -> Callable[[], None]:
            session = super().open()

            def run() -> None:
                session()
                passes(10_000, 250_000)

            return run

    clocks = SimpleNamespace(monotonic=lambda: clock["us"] / 1e6, sleep=lambda seconds: passes(round(seconds * 1e6), 0))
    monkeypatch.setattr(energy_module, "COUNTERS", tmp_path)
    monkeypatch.setattr(energy_module, "time", clocks)
    monkeypatch.setattr(energy_module, "Subject", Counted)
    for seconds in (1.0, 0.1):  # a tenth of the second is no longer than one run
        found = energy_module.energy(tiny(), seconds=seconds)
        assert (found.run, found.extra) == (pytest.approx(0.6), pytest.approx(0.5)), "joules of one run"
        assert found.repeats == energy_module.REPEATS
    for seconds in (0.0, -1.0, 0.01, float("inf"), float("nan")):
        with pytest.raises(OptionError, match=r"needs 0\.1 seconds at least"):
            energy_module.energy(b"never read", seconds=seconds)
    for wrong in ({"batch": 0}, {"threads": 0}):
        with pytest.raises(OptionError, match="a batch and a number of threads of at least 1"):
            energy_module.energy(b"never read", **wrong)
