from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from networks import randomised, residual
from safetensors.numpy import load_file
from torch import nn

import netgraft as ng
from netgraft import export as exporting
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError, OptionError
from netgraft.export import FILES, RECORD, export, load

ALL = (*FILES, RECORD)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "better" / "one"
    paths = export(randomised(residual(), name="small"), folder, original=randomised(residual()))
    assert paths == [folder / name for name in ALL]
    return folder


def test_what_is_written(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted(ALL)
    model = randomised(residual())
    weights = load_file(written / "weights.safetensors")
    assert weights.keys() == model.weights.keys()
    record = json.loads((written / RECORD).read_text())
    assert record["name"] == "small"
    assert record["parameters"] == sum(model.weights[key].size for key in model.graph.trainable)
    assert record["original"]["digest"] == record["digest"] == model.graph.digest


def test_all_three_compute_the_same(written: Path) -> None:
    x = torch.randn(3, 3, 8, 8)
    expected = to_module(randomised(residual())).eval()(x).detach().numpy()
    np.testing.assert_allclose(load(written).eval()(x).detach().numpy(), expected, atol=1e-5)
    (returned,) = onnxruntime.InferenceSession(written / "model.onnx").run(None, {"x": x.numpy()})
    np.testing.assert_allclose(returned, expected, atol=1e-4)


def test_the_files_need_nothing_of_netgraft(written: Path) -> None:
    script = (
        "import sys, torch\n"
        "sys.modules['netgraft'] = None\n"
        "from model import Network\n"
        "from safetensors.torch import load_file\n"
        "network = Network()\n"
        "network.load_state_dict(load_file('weights.safetensors'))\n"
        "print(tuple(network(torch.randn(2, 3, 8, 8)).shape))\n"
    )
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=written, capture_output=True, text=True, env=environment)
    assert (done.stdout, done.returncode) == ("(2, 5)\n", 0), done.stderr


def fake_onnx(model: object, path: Path) -> bytes:
    path.write_bytes(b"onnx")
    return b"onnx"


@pytest.fixture
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX exporter takes seconds, and has tests of its own."""
    monkeypatch.setattr(exporting, "to_onnx", fake_onnx)
    monkeypatch.setattr(exporting, "verify", lambda data, model: 0.0)


@pytest.mark.usefixtures("without_onnx")
def test_its_own_files_are_replaced(tmp_path: Path) -> None:
    export(randomised(residual(), seed=1), tmp_path)
    before = (tmp_path / "weights.safetensors").read_bytes()
    export(randomised(residual(), seed=2), tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ALL)


@pytest.mark.usefixtures("without_onnx")
@pytest.mark.parametrize("name", ALL)
def test_files_of_others_are_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OptionError, match=f"{name} was not written by netgraft"):
        export(randomised(residual()), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


@pytest.mark.usefixtures("without_onnx")
def test_a_changed_file_is_not_replaced(tmp_path: Path) -> None:
    export(randomised(residual()), tmp_path)
    with (tmp_path / "model.py").open("a") as file:
        file.write("# my note\n")
    with pytest.raises(OptionError, match=r"model\.py .*was changed"):
        export(randomised(residual()), tmp_path)
    assert "# my note" in (tmp_path / "model.py").read_text()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="needs a folder"):
        export(randomised(residual()), tmp_path / "file")


@pytest.mark.usefixtures("without_onnx")
def test_nothing_is_written_if_the_check_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = exporting.emit(residual(), class_name="Network")
    wrong = right.replace("self.bn2(self.conv2(y)) + x", "self.bn2(self.conv2(y)) - x")
    assert wrong != right
    monkeypatch.setattr(exporting, "emit", lambda graph, class_name: wrong)
    with pytest.raises(ConversionError, match=r"model\.py differs"):
        export(randomised(residual()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_program_comes_back_as_one_for_any_batch(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    program = torch.export.export(net, (torch.zeros(2, 3, 8, 8),), strict=False)
    torch.export.save(program, tmp_path / "net.pt2")
    model = ng.load(tmp_path / "net.pt2")
    written = export(model, tmp_path / "out", program=True)
    assert tmp_path / "out" / "model.pt2" in written
    x = torch.randn(5, 3, 8, 8)
    found = torch.export.load(tmp_path / "out" / "model.pt2").module()(x)
    torch.testing.assert_close(found, net(x))
    assert ng.load(tmp_path / "out" / "model.pt2").graph.digest == model.graph.digest
    # Without it, what an earlier export wrote is taken away.
    export(model, tmp_path / "out")
    assert not (tmp_path / "out" / "model.pt2").exists()


class _Masks(nn.Module):
    """Returns what is no ordinary number: truth values, infinities, integers beyond float32."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mask = x > 0
        return mask, x.masked_fill(mask, float("-inf")), mask.long() + 2**40


def test_truth_values_and_infinities_can_be_compared(tmp_path: Path) -> None:
    model = ng.load(_Masks(), example_inputs=torch.randn(2, 3, 4, 4))
    export(model, tmp_path)
    found = load(tmp_path)(x := torch.randn(3, 3, 4, 4))
    for ours, theirs in zip(found, _Masks()(x), strict=True):
        assert torch.equal(ours, theirs)


class _Distances(nn.Module):
    """Computes what no ONNX operation does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(self.fc(x), self.fc.weight[None, :, :4])


def test_what_onnx_cannot_say_is_written_without_it(tmp_path: Path) -> None:
    net = _Distances().eval()
    model = ng.load(net, example_inputs=(x := torch.randn(2, 5, 6)))
    with pytest.warns(UserWarning, match=r"there is no model\.onnx: .*cdist"):
        paths = export(model, tmp_path)
    assert {path.name for path in paths} == {"model.py", "weights.safetensors", RECORD}
    assert any("cdist" in note for note in json.loads((tmp_path / RECORD).read_text())["notes"])
    torch.testing.assert_close(load(tmp_path).eval()(x), net(x))
