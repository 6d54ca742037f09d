"""The command line: what it prints, and that a user's mistake gives one message and exit code 2."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import netgraft as ng
from netgraft import zoo
from netgraft.cli import app
from netgraft.console import Watcher
from netgraft.events import Event, PretrainingBegun, TrialRecorded
from netgraft.metrics import UNITS

DIGITS = "zoo:resnet20?channels=1&width=0.25&input=1x8x8"


def netgraft(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_inspect_shows_costs_operations_and_what_is_frozen(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 8, 3)\n"
        "    def forward(self, x):\n"
        "        return torch.roll(self.conv(x), 1, 3)\n"
        "example_inputs = torch.zeros(2, 3, 8, 8)\n"
    )
    code, said = netgraft("inspect", f"{tmp_path / 'nets.py'}:Net", "--nodes")
    assert code == 0
    for expected in ("224", "conv.weight", "aten.roll", "frozen", "f32[N,3,8,8]", "FLOPs"):
        assert expected in said


def test_inspect_shows_channels_and_what_holds_them() -> None:
    code, said = netgraft("inspect", DIGITS, "--channels")
    assert code == 0
    assert "4: made by conv1, layer1.0.conv2, layer1.1.conv2, layer1.2.conv2; read by layer1.0.conv1," in said
    assert "the network's output: fc" in said
    code, said = netgraft("inspect", "zoo:vit_tiny?width=0.25&blocks=1", "--channels")
    assert code == 0
    assert "3 x 48: made by blocks.0.attention.qkv; read by blocks.0.attention.project" in said  # heads
    assert "normalised together by blocks.0.norm1" in said


def test_a_saved_program_is_read(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 8, 8),)), tmp_path / "net.pt2")
    code, said = netgraft("inspect", tmp_path / "net.pt2")
    assert code == 0 and "conv2d" in said and "relu" in said


def test_inspect_counts_frozen_operations_that_torch_can_count(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Conv2d):\n"
        "    def forward(self, x):\n        return self._conv_forward(x, self.weight * x.mean(), self.bias)\n"
        "net = Net(3, 4, 3, padding=1)\n"
        "example_inputs = torch.zeros(2, 3, 8, 8)\n"
    )
    code, said = netgraft("inspect", f"{tmp_path / 'nets.py'}:net")
    assert code == 0
    assert f"{2 * 4 * 27 * 8 * 8 / 1e6:.2f} M of them frozen" in said and "100.0%" in said


def test_the_version() -> None:
    assert netgraft("--version") == (0, f"netgraft {ng.__version__}\n")
    assert ng.__version__ == version("netgraft")


def test_help_names_networks_metrics_and_forms_of_data() -> None:
    code, said = netgraft("optimize", "--help")
    assert code == 0
    for expected in [*zoo.names(), *UNITS, "FILE.py:NAME", "TRAIN.parquet", "0.66x", "default: by data"]:
        assert expected in said
    assert all("resnet20" in netgraft(command, "--help")[1] for command in ("inspect", "measure"))


def test_a_file_that_is_no_predictor_is_one_message_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for file in ("notes.txt", "missing.predictor"):
        arguments = ("zoo:missing", "--data", "nowhere", "--out", tmp_path / "run", "--predictor", tmp_path / file)
        code, said = netgraft("optimize", *arguments)
        assert code == 2 and f"cannot read the predictor {tmp_path / file}" in said.replace("\n", "")


def test_a_used_folder_is_one_message_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for command in (["optimize"], ["run", "program"]):
        code, said = netgraft(*command, "nowhere.py:net", "--data", "nowhere", "--out", tmp_path)
        assert code == 2 and "holds a run already" in said


def interrupt_at(kind: type[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C as soon as a run tells of such an event, of the original's trial excepted."""
    told = Watcher.__call__

    def tell(watcher: Watcher, event: Event) -> None:
        told(watcher, event)
        original = isinstance(event, TrialRecorded) and not event.trial.number
        if isinstance(event, kind) and not original:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watcher, "__call__", tell)


def test_ctrl_c_before_anything_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(PretrainingBegun, monkeypatch)
    code, said = netgraft("demo", "--out", tmp_path / "run")
    assert code == 130, said
    assert "Nothing has been tried yet" in said
    assert f"go on with: netgraft demo --out {tmp_path / 'run'} --budget 2m30s --seed 0 --resume" in said


def test_optimize_interrupted_and_resumed_report_export_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    options = ["--data", "digits", "--budget", "2 trials", "--pretrain", 1, "--tune-epochs", 0.5, "--final-epochs", 0.5]
    command = ["optimize", DIGITS, *options, "--finalists", 1, "--multiple", 8, "--out", out]
    with monkeypatch.context() as patch:
        interrupt_at(TrialRecorded, patch)
        patch.setattr(sys, "argv", ["netgraft", *map(str, command)])
        code, said = netgraft(*command)
    assert code == 130, said
    assert "interrupted" in said and f"--out {out} --resume" in said
    code, said = netgraft(*command, "--resume", "--multiple", 16)
    assert code == 2 and "widths in other multiples" in said
    code, said = netgraft(*command, "--resume")
    assert code == 0, said
    assert "finalists" in said and (out / "report.html").is_file()
    code, said = netgraft("report", out)
    assert code == 0 and "difference" in said and "…" not in said  # the table fits the terminal
    code, said = netgraft("export", out, "--to", tmp_path / "better")
    assert code == 0 and (tmp_path / "better" / "model.py").is_file()
    assert "replaced" not in said
    code, said = netgraft("export", out, "--to", tmp_path / "better")
    assert code == 0 and "replaced what was exported" in said
    code, said = netgraft("measure", tmp_path / "better", tmp_path / "better" / "model.onnx", "--seconds", 1)
    assert code == 0 and "of the first (99 % interval)" in said and "fresh session pairs" in said
    code, said = netgraft("export", tmp_path / "better", "--to", tmp_path / "again")
    assert code == 0 and (tmp_path / "again" / "model.py").is_file()
    code, said = netgraft("inspect", tmp_path / "better")
    assert code == 0 and said.startswith("better  digest")
    code, said = netgraft("measure", tmp_path / "better", tmp_path / "again", "--table", "shipped")
    assert code == 0 and len(said.splitlines()) == 2
    code, said = netgraft("measure", tmp_path / "better", "zoo:nothing", "--table", "shipped")
    assert code == 2 and "about" not in said, "all are read before anything is said"
    code, said = netgraft("measure", DIGITS, "--seconds", 1)
    assert code == 0 and "ms, 99 % interval [" in said
    quantize = ["quantize", out, "--to", tmp_path / "eight", "--images", 64, "--seconds", 1]
    code, said = netgraft(*quantize)
    assert (
        code == 0 and "original int8" in said and "…" not in said and (tmp_path / "eight" / "model.int8.onnx").is_file()
    )
    code, said = netgraft(*quantize)
    assert code == 2 and "model.int8.onnx exists" in said
    code, said = netgraft("quantize", out, "--to", tmp_path / "nine", "--data", "key-points:shapes")
    assert code == 2 and not (tmp_path / "nine").exists()
    (tmp_path / "other.py").write_text(
        "import torch\nsplits = (torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40) % 10)\n"
    )
    code, said = netgraft("quantize", out, "--to", tmp_path / "nine", "--data", f"{tmp_path / 'other.py'}:splits")
    assert code == 2 and "is not the data that" in said.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "zoo:resnet21"], "did you mean"),
        (["inspect", "nowhere.pt2"], "nowhere.pt2"),
        (["inspect", "nowhere.py:net"], "nowhere.py"),
        (["inspect", "resnet20"], "zoo:"),
        (["measure", "zoo:nothing"], "zoo"),
        (["measure", "nowhere.onnx"], "nowhere.onnx"),
        (["measure", "FOLDER"], "holds no model.pt2 or model.onnx"),
        (["inspect", "FOLDER"], "name a folder that 'netgraft export' wrote"),
        (["measure", ""], "names no network"),
        (["report", "nowhere"], "no run folder"),
        (["export", "nowhere", "--to", "x"], "no run folder"),
        (["quantize", "nowhere", "--to", "x"], "no run folder"),
        (["optimize", DIGITS, "--data", "nowhere", "--out", "OUT"], "nowhere"),
        (["optimize", DIGITS, "--data", "digits", "--out", "OUT", "--goal", "sped"], "unknown goal 'sped'"),
        (["optimize", DIGITS, "--data", "digits", "--out", "OUT", "--limit", "flops<=0x"], "impossible"),
        (["optimize", DIGITS, "--data", "digits", "--out", "OUT", "--budget", "soon"], "cannot read the budget"),
        # Limits are read before anything is loaded.
        (["optimize", "nowhere.py:n", "--data", "x", "--out", "OUT", "--limit", "energy<=5mJ"], "limit 'energy'"),
        (["optimize", "nowhere.py:n", "--data", "x", "--out", "OUT", "--limit", "latency<=5ms@abacus"], "no engine"),
        (["run", "netadapt", "nowhere.py:n", "--data", "x", "--out", "OUT", "--limit", "latency<5"], "cannot read"),
        (["optimize", DIGITS + "&classes=4", "--data", "digits", "--out", "OUT"], "10 classes"),
        (["optimize", "zoo:edsr", "--data", "digits", "--out", "OUT"], "[N,classes]"),
        (["optimize", DIGITS, "--data", "digits", "--out", "OUT", "--bank", "nowhere.bank"], "nowhere.bank"),
        (["optimize", DIGITS, "--data", "digits", "--out", "OUT", "--ops", "relu,conv"], "no operation 'conv'"),
        (["optimize", DIGITS], "--data"),
    ],
)
def test_mistakes_give_one_message_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, said = netgraft(*({"OUT": tmp_path / "run", "FOLDER": tmp_path}.get(a, a) for a in arguments))
    assert code == 2, said
    assert message in said
    assert "Traceback" not in said


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x if x.sum() > 0 else -x\n"
        "example_inputs = torch.zeros(2, 3, 8, 8)\n"
    )
    code, said = netgraft("inspect", f"{tmp_path / 'nets.py'}:Net")
    assert code == 2 and "error:" in said and "Traceback" not in said
    assert len(said.splitlines()) < 6


def test_a_network_that_crashes_the_export_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import os, signal, torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def forward(self, x):\n"
        "        if torch.compiler.is_exporting():\n"
        "            os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        return x\n"
        "example_inputs = torch.zeros(2, 3, 8, 8)\n"
    )
    code, said = netgraft("inspect", f"{tmp_path / 'nets.py'}:Net")
    assert code == 2 and "SIGSEGV" in said and ".pt2" in said
