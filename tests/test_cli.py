"""The command line: what it prints, and that a user's mistake gives one message and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from netgraft.cli import app

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


def test_a_saved_program_is_read(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 8, 8),)), tmp_path / "net.pt2")
    code, said = netgraft("inspect", tmp_path / "net.pt2")
    assert code == 0 and "conv2d" in said and "relu" in said


def test_optimize_report_export_measure(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--data", "digits", "--budget", "2 trials", "--pretrain", 1, "--tune-epochs", 0.5, "--final-epochs", 0.5]
    code, said = netgraft("optimize", DIGITS, *options, "--finalists", 1, "--out", out)
    assert code == 0, said
    assert "finalists" in said and (out / "report.html").is_file()
    code, said = netgraft("report", out)
    assert code == 0 and "speed-up" in said
    code, said = netgraft("export", out, "--to", tmp_path / "better")
    assert code == 0 and (tmp_path / "better" / "model.py").is_file()
    code, said = netgraft("measure", DIGITS, DIGITS, "--seconds", 1)
    assert code == 0 and "of the first" in said and "fresh session pairs" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "zoo:resnet21"], "did you mean"),
        (["inspect", "nowhere.pt2"], "nowhere.pt2"),
        (["inspect", "nowhere.py:net"], "nowhere.py"),
        (["inspect", "resnet20"], "zoo:"),
        (["measure", "zoo:nothing"], "zoo"),
        (["report", "nowhere"], "no run folder"),
        (["export", "nowhere", "--to", "x"], "no run folder"),
        (["optimize", DIGITS, "--data", "nowhere", "--out", "OUT"], "nowhere"),
        (["optimize", DIGITS, "--data", "digits", "--out", "OUT", "--goal", "sped"], "unknown goal 'sped'"),
        (["optimize", DIGITS, "--data", "digits", "--out", "OUT", "--limit", "flops<=0x"], "impossible"),
        (["optimize", DIGITS, "--data", "digits", "--out", "OUT", "--budget", "soon"], "cannot read the budget"),
        (["optimize", DIGITS + "&classes=4", "--data", "digits", "--out", "OUT"], "10 classes"),
        (["optimize", "zoo:edsr", "--data", "digits", "--out", "OUT"], "[N,classes]"),
        (["optimize", DIGITS], "--data"),
    ],
)
def test_mistakes_give_one_message_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, said = netgraft(*(tmp_path / "run" if a == "OUT" else a for a in arguments))
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
